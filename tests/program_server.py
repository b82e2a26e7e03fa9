"""Programs as a user runs them, each in a process of its own that is forked from one with torch already imported.

A new interpreter takes seconds to import torch; a fork of one that has imported it, and run nothing yet, takes none.
Tests of how a program starts begin a new interpreter instead.

Run as a script it is that process: it reads one JSON line a program, and answers its exit status.
"""

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent


@cache
def _server() -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, __file__], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def call(*arguments: str, script: str = "run.py", **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a script of the checkout, or a module ("-m gauntlet verify"); return what came of it."""
    words = [*script.split(), *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        places = [str(Path(folder, name)) for name in ("out", "err")]
        server = _server()
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps([words, dict(os.environ) | environment, *places]) + "\n")
        server.stdin.flush()
        status = int(server.stdout.readline())
        out, err = (Path(place).read_text() for place in places)
    return subprocess.CompletedProcess(words, status, out, err)


def _become(words: list[str], environment: dict[str, str], out: str, err: str) -> None:
    """Run the program in this process."""
    import runpy

    for place, descriptor in ((os.devnull, 0), (out, 1), (err, 2)):
        file = os.open(place, os.O_RDONLY if descriptor == 0 else os.O_WRONLY | os.O_CREAT)
        os.dup2(file, descriptor)
        os.close(file)
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
        runpy.run_path(words[0], run_name="__main__")


def _serve() -> None:
    import gauntlet.commands.run
    import gauntlet.jobs.attack_job
    import gauntlet.jobs.training_job
    import gauntlet.verification.verify  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if not child:
            _become(*json.loads(line))
            return
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
