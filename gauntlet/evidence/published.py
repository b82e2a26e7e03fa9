"""A manifest as pages and trackers show it: without the absolute folders of the machine that made the run."""

import shlex
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, cast

from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.recorded_command import command_words

FOLDERS = ("runs_dir", "logger.dir")
"""Options that name a folder for output; none of them changes a result."""


def published(manifest: Manifest) -> Manifest:
    """Return the manifest with absolute folders for output shortened to their name, and left out of the command."""
    shown: dict[str, Any] = dict(manifest)
    if isinstance(shown.get("config"), Mapping):
        shown["config"] = _shortened(shown["config"], "")
    shown["command"] = published_command(str(shown.get("command", "")))
    return cast(Manifest, shown)


def published_command(text: str) -> str:
    """Return a command without the options that give an absolute folder for output."""
    words = command_words(text)
    kept = [word for word in words if not _names_folder(word)]
    return shlex.join(kept) if len(kept) < len(words) else text


def _shortened(config: Mapping[str, Any], above: str) -> dict[str, Any]:
    return {
        key: _shortened(value, f"{key}.")
        if key == "logger" and isinstance(value, Mapping)
        else PurePath(value).name
        if f"{above}{key}" in FOLDERS and isinstance(value, str) and PurePath(value).is_absolute()
        else value
        for key, value in config.items()
    }


def _names_folder(word: str) -> bool:
    key, _, value = word.lstrip("+~").partition("=")
    return key in FOLDERS and PurePath(value.strip("'\"")).is_absolute()
