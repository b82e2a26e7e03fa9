"""The console command `gauntlet`, or `python -m gauntlet`: one subcommand a file, imported when it is called."""

import difflib
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import gauntlet
from gauntlet.commands.subcommands import COMMANDS
from gauntlet.system.output import steady_output

OTHER_MISTAKE = 2
"""Exit status of a command line that names no subcommand."""


def usage() -> str:
    """Return the list of subcommands, for the terminal."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.about}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: gauntlet COMMAND ...",
            "",
            "How robust is an image classifier really? Attack a defense and keep the evidence.",
            "",
            *lines,
            "",
            "  gauntlet run attack=pma defense=adaptive_smoothing",
            "  gauntlet COMMAND --help",
        ]
    )


def main(words: Sequence[str] | None = None) -> int:
    """Call the subcommand that the command line names; return the exit status.

    Args:
        words: of the command line after `gauntlet`; None: those of this process.
    """
    with steady_output():
        return _called(list(sys.argv[1:] if words is None else words))


def _called(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help", "help"):
        sys.stdout.write(f"{usage()}\n")
        return 0
    if given[0] in ("-V", "--version"):
        sys.stdout.write(f"gauntlet {gauntlet.__version__}\n")
        return 0
    for count in (2, 1):
        name = " ".join(given[:count])
        if name in COMMANDS:
            status: int = importlib.import_module(COMMANDS[name].module).main(given[count:])
            return status
    sys.stderr.write(f"error: {_unknown(given)}\n")
    return OTHER_MISTAKE


def _unknown(given: Sequence[str]) -> str:
    known = [name for name in COMMANDS if name.startswith(f"{given[0]} ")]
    if known:
        return f"gauntlet {given[0]} needs one of: {', '.join(name.partition(' ')[2] for name in known)}"
    if "=" in given[0]:
        return f"there is no command {given[0]}; did you mean: gauntlet run {' '.join(given)}"
    near = difflib.get_close_matches(given[0], COMMANDS, 1)
    return f"there is no command {given[0]}; " + (
        f"did you mean {near[0]}?" if near else f"the commands are {', '.join(COMMANDS)}"
    )


def _leave_current_folder(words: Sequence[str]) -> None:
    """Take the current folder from the end of the import path, where `gauntlet` has put it.

    `run` and `train` find a user's own packages there; a command that reads evidence imports nothing from there, unless
    this package itself is there.
    """
    if sys.flags.safe_path:  # Python has not put it on the path
        return
    here = Path(gauntlet.__file__).resolve().parent.parent
    if Path(sys.path[-1]).resolve() != here and next(iter(words), "") not in ("run", "train", "calibrate"):
        sys.path.pop()


if __name__ == "__main__":
    _leave_current_folder(sys.argv[1:])
    sys.exit(main())
