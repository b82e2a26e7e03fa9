"""The command that a run says it was made by, as it can be shown: it may be somebody else's."""

import shlex
from pathlib import PurePath

from gauntlet.errors import printable
from gauntlet.evidence.manifest import Manifest

PROGRAMS = ("run.py", "train.py")
UNFIT = "(its recorded command is none of gauntlet's)"


def command_words(text: str) -> list[str]:
    """Return the words of a command of gauntlet's; none where it is another program's, or no command."""
    try:
        words = shlex.split(text)
    except ValueError:  # an open quote
        return []
    name = [PurePath(word).name for word in words[:2]]
    ours = name[:1] == ["gauntlet"] or (
        name[0].startswith("python") and name[1] in PROGRAMS if len(name) > 1 else False
    )
    return words if ours and text.isprintable() else []


def shown_command(manifest: Manifest) -> str:
    """Return the command with every word quoted, so that pasting it runs nothing beside gauntlet."""
    words = command_words(manifest["command"])
    return printable(shlex.join(words)) if words else UNFIT
