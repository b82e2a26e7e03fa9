"""Models and data sets that are files with code, and where a configuration names those. Imports no torch.

Such a file runs when it is built. So it must be among what the user trusts, as a package must. On the command line
`model=net.py:make` or `dataset=data.py:make` says so by itself; everything else, and whoever verifies the run, says it
with the file's path.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gauntlet.errors import UserError
from gauntlet.evidence.stable_names import place_of

FIELDS = {
    "gauntlet.data.file_items.FileItems": "source",
    "gauntlet.models.file_model.FileModel": "source",
    "gauntlet.models.torchscript_model.TorchScriptModel": "path",
}
"""Class whose field names a file with code -> that field."""


def code_file(node: Any) -> str:
    """Return the file with code that a node names, without the function in it; empty: it names none."""
    if not isinstance(node, Mapping):
        return ""
    field = FIELDS.get(place_of(str(node.get("_target_"))), "")
    return path_of(str(node.get(field, ""))) if field else ""


def check_code_file(path: str, node: Mapping[str, Any], trusted: Sequence[str]) -> None:
    """Refuse a node that names a file with code which is not trusted.

    Args:
        path: of the node, for the message.
        trusted: packages and files.

    Raises:
        UserError: with the fix.
    """
    if (file := code_file(node)) and file not in trusted:
        raise UserError(f"{path} runs code of {file}; if you trust it, add 'trusted_packages=[{file}]'")


def path_of(source: str) -> str:
    """Return the path in `path.py:function`, or the text itself where it names no function."""
    path, colon, _ = source.rpartition(":")
    return path if colon and path.endswith(".py") else source


def code_files(node: Any) -> Iterator[str]:
    """Yield the files with code that plain configuration values name, at any depth."""
    if isinstance(node, Mapping):
        if found := code_file(node):
            yield found
        for value in node.values():
            yield from code_files(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from code_files(value)
