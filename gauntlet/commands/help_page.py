"""What `run --help` and `train --help` print: every choice in words, every option with its default. No torch here."""

import ast
import functools
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from gauntlet.commands.choices import GroupChoice, choices
from gauntlet.config.shipped import CONF

LAUNCHERS = "hydra/launcher"

INNER = {"run": ("recipe", "weight_perturbation"), "train": ("weight_perturbation",)}
"""Program -> groups that it takes below others."""


def help_page(config_name: str, words: Sequence[str]) -> str:
    """Return the help of a program, for the composition that a command line makes.

    Args:
        config_name: of the program.
        words: of its command line; `attack=fmn` shows the options of that attack.
    """
    args = get_args_parser().parse_args(list(words))
    path = create_config_search_path(str(Path(args.config_path).absolute()) if args.config_path else CONF)
    if args.config_dir and isinstance(path, ConfigSearchPathImpl):
        own = f"file://{Path(args.config_dir).absolute()}"
        path.prepend("command-line", own, anchor=SearchPathQuery(provider="schema"))
    GlobalHydra.instance().clear()
    try:
        hydra = Hydra.create_main_hydra2("gauntlet", path)
        cfg = hydra.compose_config(args.config_name or config_name, args.overrides, RunMode.RUN)
        for folder in cfg.hydra.searchpath or ():
            path.append("hydra.searchpath", folder)
        loader = ConfigLoaderImpl(path)
        groups = [group for group in loader.list_groups("") if not group.startswith("hydra")]
        picked = dict(cfg.hydra.runtime.choices)
        shown = [line for group in [*sorted(groups), LAUNCHERS] for line in _group(loader, group, picked, config_name)]
        header, footer = cfg.hydra.help.header, cfg.hydra.help.footer
        options = list(_options(cfg, config_name))
    finally:
        GlobalHydra.instance().clear()
    return "\n".join(
        [
            header, "== Choices (group=choice; * recommended) ==", *shown, "",
            "== Options (key=value) as they are with these choices ==", "", *options, "", footer.rstrip(),
        ]
    )  # fmt: skip


def _group(loader: ConfigLoader, group: str, picked: dict[str, Any], config_name: str) -> Iterator[str]:
    """Yield the lines of a group that the program takes, or that the user has added."""
    found = choices(loader, group)
    if group == LAUNCHERS:
        found = [each for each in found if each.about]
    elif not (group in picked or group in INNER[config_name] or any(each.own for each in found)):
        return
    if not found:
        return
    root = (Path(CONF) / f"{config_name}.yaml").read_text()
    default = next(iter(re.findall(rf"^  - {group}: (\w+)", root, re.MULTILINE)), "")
    width = max(len(each.name) for each in found)
    yield f"\n{group}"
    for kind, members in groupby(sorted(found, key=lambda it: (it.kind == "your own", it.kind)), lambda it: it.kind):
        if kind:
            yield f"  {kind}"
        for each in members:
            yield _line(each, width, "    " if kind else "  ", default)


def _line(each: GroupChoice, width: int, pad: str, default: str) -> str:
    marks = [word for word, is_so in (("default", each.name == default), ("yours", each.own)) if is_so]
    end = f" ({', '.join(marks)})" if marks else ""
    return f"{pad[:-2]}{'*' if each.recommended else ' '} {each.name:<{width}}  {each.about}{end}".rstrip()


def _options(cfg: DictConfig, config_name: str) -> Iterator[str]:
    """Yield each option with its default, and what the program says of it."""
    about = dict(re.findall(r"^(\w+): .*# (.*)$", (Path(CONF) / f"{config_name}.yaml").read_text(), re.MULTILINE))
    content: Any = OmegaConf.to_container(cfg, resolve=False)
    content.pop("hydra", None)
    yield from _nodes(content, about, "")


def _nodes(node: dict[str, Any], about: dict[str, str], pad: str) -> Iterator[str]:
    if target := node.get("_target_"):
        about = field_words(str(target))
    for key, value in node.items():
        words = f"  # {about[key]}" if key in about else ""
        if isinstance(value, dict) and value:
            yield f"{pad}{key}:{words}"
            yield from _nodes(value, {}, f"{pad}  ")
        else:
            dumped = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
            yield f"{pad}{key}: {dumped.removesuffix('...' + chr(10)).strip()}{words}"


@functools.cache
def field_words(target: str) -> dict[str, str]:
    """Return what the docstring of a class of this package, and of those above it, says of each field; imports nothing.

    Args:
        target: place of the class.
    """
    module, _, name = target.rpartition(".")
    if not module.startswith("gauntlet."):
        return {}
    place = resources.files("gauntlet").joinpath(*module.split(".")[1:])
    file = next((it for it in (Path(f"{place}.py"), Path(f"{place}/__init__.py")) if it.is_file()), None)
    body = ast.parse(file.read_text()).body if file else []
    found = next((it for it in body if isinstance(it, ast.ClassDef | ast.FunctionDef) and it.name == name), None)
    if found is None:
        return {}
    places = {
        it.name: f"{each.module}.{it.name}" for each in body if isinstance(each, ast.ImportFrom) for it in each.names
    }
    bases = [it.id for it in getattr(found, "bases", []) if isinstance(it, ast.Name)]
    words: dict[str, str] = {}
    for base in reversed(bases):
        words |= field_words(places.get(base, f"{module}.{base}"))
    return words | _arguments(ast.get_docstring(found) or "")


def _arguments(text: str) -> dict[str, str]:
    """Return name -> first sentence about it, of the arguments or attributes that a docstring lists."""
    section = re.search(r"^(?:Args|Attributes):\n((?:    .*\n?|\n)*)", text, re.MULTILINE)
    entries = re.findall(r"^    ([\w, ]+): (.*(?:\n {5,}.*)*)", section[1] if section else "", re.MULTILINE)
    return {
        key.strip(): re.split(r"\.(?: (?=[A-Z])|$)", " ".join(words.split()))[0]
        for keys, words in entries
        for key in keys.split(",")
    }
