"""How mistakes reach the user: one line that starts with `error:`, and a status that is not 0. No torch here."""

import atexit
import faulthandler
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable

from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

import gauntlet
from gauntlet.cluster import launchers
from gauntlet.cluster.sweep_jobs import announced, job_of, verdict
from gauntlet.cluster.sweep_overrides import prepared
from gauntlet.commands.command_line import arranged, by_file, free_text
from gauntlet.commands.terminal import one_line, say, write
from gauntlet.config.trust import guard
from gauntlet.errors import UserError, described, printable
from gauntlet.system.foreign_frame import foreign_frame

STOPPED = 130
"""The exit status after Ctrl-C."""

guard()


def entry(main: Callable[[], None], config_name: str = "run") -> int:
    """Call a `@hydra.main` function and return the exit status; after a sweep, print the state of its jobs.

    Hydra's own complaints take many lines. It prints them itself unless HYDRA_FULL_ERROR=1, so that is set, and what
    it then raises is said in one line here. A user who has set HYDRA_FULL_ERROR=1 gets the traceback.

    Args:
        main: takes the configuration from the command line.
        config_name: of the file in `conf/` that it starts with.
    """
    if "--version" in sys.argv[1:]:
        write(f"gauntlet {gauntlet.__version__}")
        return 0
    if sys.__stderr__ is not None:
        faulthandler.enable(sys.__stderr__, all_threads=False)  # a crash in compiled code of a model says where
    announced.clear()
    status = _called(main, config_name)
    if not announced:
        return status
    lines, whole = verdict(announced, stopped=status == STOPPED)
    from gauntlet.commands.status import sweep_table  # it reads evidence, which --help needs not

    if table := sweep_table(announced):
        write("\n".join(["", *table]))
    say("\n".join(lines))
    return status or int(not whole)


def _called(main: Callable[[], None], config_name: str) -> int:
    full = os.environ.setdefault("HYDRA_FULL_ERROR", "0") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        words = prepared(launchers.checked(by_file(free_text(arranged(sys.argv[1:])))))
        sys.argv[1:] = [*words, *_elsewhere(words)]
    except UserError as cause:
        say(f"error: {printable(cause)}")
        return 1
    try:
        if get_args_parser().parse_args(sys.argv[1:]).help:
            from gauntlet.commands.help_page import help_page  # nothing else needs it

            write(help_page(config_name, sys.argv[1:]))
            return 0
        main()
    except KeyboardInterrupt:
        say("stopped")
        return STOPPED
    except SystemExit as end:
        if not announced:
            raise
        return end.code if isinstance(end.code, int) else 1
    except UserError as cause:
        say(f"error: {printable(cause)}")
        return 1
    except (HydraException, OmegaConfBaseException, OSError, ValueError) as cause:
        if full:
            raise
        say(f"error: {one_line(cause, config_name)}")
        return 1
    except Exception as cause:
        if full or not announced:
            raise
        say(f"error: the launcher says {type(cause).__name__}: {one_line(cause).partition('. ')[0]}")
        return 1
    return 0


def _elsewhere(words: list[str]) -> list[str]:
    """Return where Hydra is to write what it says of a sweep that is only estimated: beside all runs, and not for
    long."""
    if "estimate=true" not in words or not {"-m", "--multirun"} & set(words):
        return []
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return [f"hydra.sweep.dir={folder}"]


def attempt(work: Callable[[], bool], stopped: str, traceless: bool = False) -> None:
    """Do the work of one job, a single run or one of a sweep.

    A user's mistake, or evidence with errors, ends a single run with status 1, and Ctrl-C with status 130. In a sweep
    the other jobs go on and the files of the job say that it failed, whatever process it ran in. A bug is treated
    alike, with its traceback on standard error.

    Args:
        work: returns whether all went well.
        stopped: what to say after Ctrl-C.
        traceless: whether a job of a sweep leaves no files either.
    """
    hydra = HydraConfig.get()
    if traceless or hydra.mode == RunMode.RUN:
        if _attempt(work, stopped):
            sys.exit(1)
        return
    try:
        with job_of(hydra).at_work() as said:
            said.append(_attempt(work, stopped))
    except UserError as cause:
        say(f"error: {printable(cause)}")


def _attempt(work: Callable[[], bool], stopped: str) -> str:
    """Return what went wrong, in one line that the user has seen; "": nothing."""
    try:
        return "" if work() else "some of its samples ended with an error"
    except KeyboardInterrupt:
        say(stopped)
        sys.exit(STOPPED)
    except UserError as cause:
        say(f"error: {printable(cause)}")
        return str(cause)
    except Exception as cause:
        if place := foreign_frame(cause):  # a user's model, attack or data set: a line says it
            text = f"{place} raised {described(cause)}"
            say(f"error: {printable(text)}")
            return text
        text = f"unexpected {type(cause).__name__}: {one_line(cause)}"
        say(f"{traceback.format_exc()}error: {text}")
        return text
    except BaseException as cause:  # such as SystemExit of a user's code: it must not pass for success
        text = f"code that the run calls ended the program ({described(cause)}); let it raise an error instead"
        say(f"error: {text}")
        return text
