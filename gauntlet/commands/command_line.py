"""The words of a command line before Hydra reads them, and what an unknown option may have meant. No torch here."""

import difflib
import re
import sys
from collections.abc import Sequence
from itertools import pairwise

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from gauntlet.config.code_files import path_of
from gauntlet.config.shipped import CONF
from gauntlet.errors import UserError


def arranged(words: Sequence[str]) -> list[str]:
    """Return the words with the flags first: Hydra takes no `key=value` after a flag that stands after another.

    Raises:
        UserError: a flag is unknown, or a value cannot be read by this Python.
    """
    known = get_args_parser()._option_string_actions
    flags: list[str] = []
    rest: list[str] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if not word.startswith("-"):
            rest.append(_readable(word))
            continue
        if word == "--estimate":
            rest.append("estimate=true")
            continue
        name, joined, _ = word.partition("=")
        matches = [name] if name in known else [key for key in known if name.startswith("--") and key.startswith(name)]
        if not matches:
            raise UserError(_unknown_flag(word, list(known)))
        flags.append(word)
        action = known[matches[0]]
        takes = action.nargs is None or (action.nargs == "?" and waiting and waiting[0] in (action.choices or ()))
        if takes and not joined and waiting:
            flags.append(waiting.pop(0))
    return [*flags, *rest]


def by_file(words: Sequence[str]) -> list[str]:
    """Return the words with `model=net.py:make` and `dataset=data.py:make` spelled out: whoever types a file trusts it.

    Raises:
        UserError: files and choices stand in one sweep.
    """
    return _spelled_out(_spelled_out(words, "model"), "dataset")


FREE_TEXT = ("name", "paper", "authors", "link", "extra_data")
"""Options whose value is a text as it stands, commas and all."""


def free_text(words: Sequence[str]) -> list[str]:
    """Return the words with free text quoted for Hydra, which takes a comma for a list; sweeps mean one."""
    if {"-m", "--multirun"} & set(words):
        return list(words)
    return [_as_text(word) for word in words]


def _as_text(word: str) -> str:
    key, given, value = word.partition("=")
    plain = not given or key not in FREE_TEXT or value in ("", "null") or "${" in value
    return word if plain or value[:1] in "'\"[" else f"{key}={_quoted(value)}"


def _spelled_out(words: Sequence[str], group: str) -> list[str]:
    """Return the words with the files of one group spelled out."""
    typed = [word for word in words if re.match(rf"{group}=.*\.py(:|,|'|$)", word)]
    if not typed:
        return list(words)
    sources = [source.strip("'\" ") for source in typed[-1].partition("=")[2].split(",")]
    if odd := [source for source in sources if ".py" not in source]:
        raise UserError(f"{typed[-1]} sweeps over files and over the choice {odd[0]}; sweep over one kind at a time")
    files = list(dict.fromkeys(path_of(source) for source in sources))
    kept, trusted = [], ""
    for word in words:
        if word.startswith("trusted_packages="):
            trusted = word.partition("=")[2].strip("[] ")
        elif word not in typed:
            kept.append(word)
    packages = ",".join(filter(None, [trusted, *map(_quoted, files)]))
    return [
        *kept,
        f"{group}=file",
        f"{group}.source={','.join(map(_quoted, sources))}",
        f"trusted_packages=[{packages}]",
    ]


def _quoted(text: str) -> str:
    """Return a value for Hydra, quoted where its parser would read more than a text."""
    return text if re.fullmatch(r"[\w./:-]+", text) else "'" + text.replace("'", "\\'") + "'"


def _unknown_flag(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word.partition("=")[0], known, 1)
    hint = f"did you mean {near[0]}?" if near else "options are written key=value, without dashes; --help lists them"
    return f"there is no flag {word}; {hint}"


def _readable(word: str) -> str:
    """Return a word; refuse a function in it where Python runs without the assertions that Hydra's parser needs."""
    bare = re.sub(r"'[^']*'|\"[^\"]*\"", "", word)
    if sys.flags.optimize and re.search(r"=.*\w\(", bare):
        raise UserError(f"{word} cannot be read by python -O; unset PYTHONOPTIMIZE, or list the values: key=1,2,3")
    return word


def meant(key: str, config_name: str, words: Sequence[str]) -> str:
    """Return which option a key that does not exist may stand for; empty: none is near.

    Args:
        key: as typed.
        config_name: of the program.
        words: of the command line; their choices of groups say which options there are.
    """
    folders = [
        f"hydra.searchpath=[file://{value}]" for flag, value in pairwise(words) if flag in ("--config-dir", "-cd")
    ]
    folders += [word for word in words if word.startswith("hydra.searchpath=")]
    picked = [word for word in words if re.fullmatch(r"(attack|certifier|dataset|defense|model|recipe)=[\w/.-]+", word)]
    names: list[str] = []
    for choices in (picked, []):
        try:
            with initialize_config_dir(CONF, version_base=None):
                names = _keys(compose(config_name, [*folders, *choices]), "")
            break
        except (HydraException, OmegaConfBaseException, ValueError):
            continue
    same = [name for name in names if name.endswith(f".{key}")]
    found = sorted(same, key=lambda name: name.count("."))[:1] or difflib.get_close_matches(key, names, 1)
    leaves = {name.rpartition(".")[2]: name for name in reversed(names)}
    found = found or [leaves[leaf] for leaf in difflib.get_close_matches(key, leaves, 1)]
    return found[0] if found else ""


def _keys(node: DictConfig, above: str) -> list[str]:
    """Return the full keys of a composition, without what interpolations repeat."""
    keys = []
    for key in node:
        inner = node._get_node(key)
        keys.append(f"{above}{key!s}")
        if isinstance(inner, DictConfig) and not inner._is_interpolation() and not inner._is_none():
            keys += _keys(inner, f"{above}{key!s}.")
    return [key for key in keys if not key.rpartition(".")[2].startswith("_")]
