"""How mistakes reach the user: one line that starts with `error:`, and a status that is not 0. No torch here."""

import os
import re
import sys
import traceback
from collections.abc import Callable

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from harness import launchers
from harness.cells import announced, cell_of, verdict
from harness.errors import UserError
from harness.sweeps import missing_choice, prepared

STOPPED = 130
"""The exit status after Ctrl-C."""


def entry(main: Callable[[], None]) -> int:
    """Call a `@hydra.main` function and return the exit status; after a sweep, say how its cells stand.

    Hydra's own complaints take many lines. It prints them itself unless HYDRA_FULL_ERROR=1, so that is set, and what
    it then raises is said in one line here. A user who has set HYDRA_FULL_ERROR=1 gets the traceback.

    Args:
        main: takes the configuration from the command line.
    """
    announced.clear()
    status = _called(main)
    if not announced:
        return status
    lines, whole = verdict(announced, stopped=status == STOPPED)
    say("\n".join(lines))
    return status or int(not whole)


def _called(main: Callable[[], None]) -> int:
    full = os.environ.setdefault("HYDRA_FULL_ERROR", "0") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        sys.argv[1:] = prepared(launchers.checked(sys.argv[1:]))
    except UserError as cause:
        say(f"error: {cause}")
        return 1
    try:
        main()
    except KeyboardInterrupt:
        say("stopped")
        return STOPPED
    except SystemExit as end:
        if not announced:
            raise
        return end.code if isinstance(end.code, int) else 1
    except (HydraException, OmegaConfBaseException, OSError, ValueError) as cause:
        if full:
            raise
        say(f"error: {one_line(cause)}")
        return 1
    except Exception as cause:
        if full or not announced:
            raise
        say(f"error: the launcher says {type(cause).__name__}: {one_line(cause).partition('. ')[0]}")
        return 1
    return 0


def cell(work: Callable[[], bool], stopped: str) -> None:
    """Do the work of one cell, a single run or one of a sweep.

    A user's mistake, or evidence with errors, ends a single run with status 1, and Ctrl-C with status 130. In a sweep
    the other cells go on and the files of the cell say that it failed, whatever process it ran in. A bug is treated
    alike, with its traceback on standard error.

    Args:
        work: returns whether all went well.
        stopped: what to say after Ctrl-C.
    """
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.RUN:
        if _attempt(work, stopped):
            sys.exit(1)
        return
    try:
        with cell_of(hydra).at_work() as said:
            said.append(_attempt(work, stopped))
    except UserError as cause:
        say(f"error: {cause}")


def _attempt(work: Callable[[], bool], stopped: str) -> str:
    """What went wrong, in one line that the user has seen; "": nothing."""
    try:
        return "" if work() else "some of its samples ended with an error"
    except KeyboardInterrupt:
        say(stopped)
        sys.exit(STOPPED)
    except UserError as cause:
        say(f"error: {cause}")
        return str(cause)
    except Exception as cause:
        text = f"unexpected {type(cause).__name__}: {one_line(cause)}"
        say(f"{traceback.format_exc()}error: {text}")
        return text


def one_line(cause: BaseException) -> str:
    """What an exception of Hydra, OmegaConf or the system says, without its hints for programmers."""
    text = str(cause)
    if isinstance(cause, MissingConfigException):
        group, _, choice = (cause.missing_cfg_file or "").rpartition("/")
        return missing_choice(group, choice, cause.options or ()) if group else text.splitlines()[0]
    if isinstance(cause, OverrideParseException) and "while evaluating" not in text:  # else Hydra tells the cause
        return (
            f"the argument {cause.override!r} cannot be read; write key=value, close each bracket, and quote a value "
            "with spaces or signs twice: \"runtime.keep='first 5'\""
        )
    if isinstance(cause, OSError) and cause.strerror:
        return f"{cause.filename}: {cause.strerror}; choose another runs_dir, or make room there"
    if overridden := re.search(r"Could not override '([^']*)'", text):
        key = getattr(cause.__cause__, "full_key", None) or overridden[1]
        return f"unknown option {key}; --cfg job shows the options that there are"
    if text.startswith("Config group override must be"):
        empty = [word for word in sys.argv[1:] if re.fullmatch(r"[\w/@]+=(null|\{.*\})?", word)]
        return f"{' '.join(empty)}: a choice must be a name; --help lists them"
    if isinstance(cause.__cause__, OmegaConfBaseException):
        text = f"{text}: {cause.__cause__}"
    lines = (line.strip() for line in text.splitlines())
    kept = [line for line in lines if line and not re.match(r"(See https:|full_key:|object_type=|Set the env)", line)]
    return " ".join(kept) or type(cause).__name__


def say(text: str) -> None:
    """To standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
