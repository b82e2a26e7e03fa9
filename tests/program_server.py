"""Programs as a user runs them, each in a process of its own that is forked from one with torch already imported.

A new interpreter takes seconds to import torch; a fork of one that has imported it, and run nothing yet, takes none.
Tests of how a program starts begin a new interpreter instead.

Run as a script it is that process: it reads a JSON line for each program to start, to poll or to wait for, and answers
its process id or its exit status.
"""

import atexit
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parent.parent


@cache
def _server() -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, __file__], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _asked(*question: object) -> int | None:
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(question) + "\n")
    server.stdin.flush()
    answer: int | None = json.loads(server.stdout.readline())
    return answer


class Program:
    """A program that runs in the background; as `subprocess.Popen`, of which it has what the tests use."""

    def __init__(self, words: list[str], place: Path, out: str, err: str, environment: dict[str, str]) -> None:
        self.returncode: int | None = None
        pid = _asked("start", words, str(place), environment, out, err)
        assert pid is not None
        self.pid = pid

    def poll(self) -> int | None:
        """Return its exit status, negative where a signal ended it; None while it runs."""
        if self.returncode is None:
            self.returncode = _asked("poll", self.pid)
        return self.returncode

    def wait(self) -> int:
        """Wait for its end; return its exit status."""
        if self.returncode is None:
            self.returncode = _asked("wait", self.pid)
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        """Kill it, if it runs still: nobody else gets its number before it was waited for."""
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)


def _words(script: str, arguments: tuple[str, ...]) -> list[str]:
    return [*script.split(), *map(str, arguments)]


def start(*arguments: str, script: str = "run.py") -> Program:
    """Start a script of the checkout, or a module, in the background; what it says is lost."""
    return Program(_words(script, arguments), ROOT, os.devnull, os.devnull, dict(os.environ))


def call(
    *arguments: str, script: str = "run.py", place: Path = ROOT, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run a script of the checkout, or a module ("-m gauntlet verify"), in a folder; return what came of it."""
    words = _words(script, arguments)
    with tempfile.TemporaryDirectory() as folder:
        places = [str(Path(folder, name)) for name in ("out", "err")]
        status = Program(words, place, places[0], places[1], dict(os.environ) | environment).wait()
        out, err = (Path(file).read_text() for file in places)
    return subprocess.CompletedProcess(words, status, out, err)


def _become(words: list[str], place: str, environment: dict[str, str], out: str, err: str) -> None:
    """Run the program in this process."""
    import runpy

    for name, descriptor in ((os.devnull, 0), (out, 1), (err, 2)):
        file = os.open(name, os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT)
        os.dup2(file, descriptor)
        os.close(file)
    os.chdir(place)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[1:1] = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place not in sys.path]
    if words[0] == "-m":
        sys.path[:] = [*sys.path[1:], str(ROOT)]  # what gauntlet/__init__.py makes of it there
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(ROOT)
        sys.argv = words
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")


def _run(*program: Any) -> NoReturn:
    """End this process as the interpreter ends a program, but leave its memory to the system: that saves a second."""
    try:
        _become(*program)
        status: Any = 0
    except SystemExit as end:
        status = end.code or 0
        if not isinstance(status, int):
            sys.stderr.write(f"{status}\n")
            status = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _serve() -> None:
    import gauntlet.commands.run
    import gauntlet.jobs.attack_job
    import gauntlet.jobs.training_job
    import gauntlet.verification.verify  # noqa: F401

    gc.freeze()  # no collection of a fork visits, and so copies, what was there before
    for line in sys.stdin:
        what, *more = json.loads(line)
        if what == "start":
            answer: int | None = os.fork()
            if not answer:
                _run(*more)
        else:
            pid, status = os.waitpid(more[0], os.WNOHANG if what == "poll" else 0)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
