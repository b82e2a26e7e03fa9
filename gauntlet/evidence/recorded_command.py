"""The command that a run says it was made by, as it can be shown and offered: it may be somebody else's."""

import shlex

from gauntlet.evidence.manifest import Manifest

PROGRAMS = {
    ("python", "run.py"),
    ("python", "train.py"),
    ("gauntlet", "run"),
    ("gauntlet", "import"),
    ("gauntlet", "train"),
}
"""How the commands begin that are offered to go on with."""

UNFIT = "(its recorded command is none of gauntlet's)"


def command_words(text: str) -> list[str]:
    """Return the words of a command of gauntlet's; none where it is another program's, or no command."""
    try:
        words = shlex.split(text)
    except ValueError:  # an open quote
        return []
    return words if tuple(words[:2]) in PROGRAMS and text.isprintable() else []


def shown_command(manifest: Manifest) -> str:
    """Return the command with every word quoted, so that pasting it runs nothing beside gauntlet."""
    return shlex.join(command_words(manifest["command"])) or UNFIT


def command_of_all_shards(text: str) -> str:
    """Return the command of one shard turned into that of all shards; another one quoted anew; empty for no command."""
    words = command_words(text)
    options = dict(word.partition("=")[::2] for word in words)
    shards = options.get("runtime.shards", "1")
    if shards == "1":
        return shlex.join(words)
    kept = [word for word in words if not word.startswith("runtime.shard=")]
    return shlex.join([*kept[:2], "-m", *kept[2:], f"runtime.shard=range({shards})"])
