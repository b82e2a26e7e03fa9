"""Options of a sweep over choices: `-m attack=square,rays attack.queries=500`. No torch here.

Hydra composes the default choice before it looks at the swept ones, and refuses an option that only those have. So such
options are looked up in each swept choice, here, and then given to Hydra by force (`++`). A choice that does not exist
is refused here too, before any job of the sweep is written down.
"""

import difflib
from collections.abc import Mapping, Sequence
from itertools import pairwise

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gauntlet.config.shipped import CONF
from gauntlet.errors import UserError

MULTIRUN = {"-m", "--multirun", "hydra.mode=MULTIRUN"}


def prepared(words: Sequence[str]) -> list[str]:
    """Return the words of a command line, with force where an option belongs to a swept choice.

    Raises:
        UserError: one of the swept choices does not exist, or lacks the option.
    """
    try:
        given = [_parsed(word) for word in words]
    except HydraException:  # Hydra itself says what is wrong with it
        return list(words)
    swept = {one.key_or_group: one for one in given if one and _is_choice(one)} if MULTIRUN & set(words) else {}
    options = {place: one for place, one in enumerate(given) if one and _group(one) in swept}
    folders = [
        *(word for word in words if word.startswith("hydra.searchpath=")),
        *(f"hydra.searchpath=[file://{folder}]" for flag, folder in pairwise(words) if flag in ("--config-dir", "-cd")),
    ]
    needed = set(map(_group, options.values()))
    choices = {group: _composed(group, sweep, folders, group in needed) for group, sweep in swept.items()}
    for place, one in options.items():
        _look_up(words[place], one.key_or_group, choices[_group(one)])
    return [f"++{word}" if place in options else word for place, word in enumerate(words)]


def _parsed(word: str) -> Override | None:
    return OverridesParser.create().parse_override(word) if "=" in word and not word.startswith("-") else None


def _is_choice(one: Override) -> bool:
    """Return whether it sweeps over choices of a group at the root, given by their names."""
    return one.is_choice_sweep() and one.package is None and "." not in one.key_or_group


def _group(one: Override) -> str:
    """Whose option it sets; empty: it is no plain `group.option=value`."""
    group, dot, _ = one.key_or_group.partition(".")
    forced = one.is_add() or one.is_force_add() or one.is_delete() or one.package is not None
    return group if dot and not forced else ""


def _composed(group: str, sweep: Override, folders: Sequence[str], needed: bool) -> dict[str, DictConfig]:
    """Return the nodes of the swept choices, without patterns and those that do not compose: Hydra says that better.

    Args:
        needed: whether all nodes are; else those that this package brings are left out: they do exist.

    Raises:
        UserError: a choice does not exist, or is no name.
    """
    nodes = {}
    for choice in () if sweep.value_type == ValueType.GLOB_CHOICE_SWEEP else sweep.sweep_string_iterator():
        try:
            with initialize_config_dir(CONF, version_base=None):
                if not needed and choice in GlobalHydra.instance().config_loader().get_group_options(group):
                    continue
                node = compose(None, [*folders, f"+{group}={choice}"])[group]
        except MissingConfigException as cause:
            if cause.missing_cfg_file == f"{group}/{choice}":
                raise UserError(missing_choice(group, str(choice), cause.options or ())) from None
            continue
        except ValueError as cause:
            if str(cause).startswith("Config group override must be"):
                raise UserError(f"{group}={choice}: a choice must be a name; --help lists them") from None
            continue
        except (HydraException, OmegaConfBaseException, KeyError):
            continue
        if not isinstance(node, DictConfig):
            break  # values of an option, such as seed=1,2
        nodes[f"{group}={choice}"] = node
    return nodes


def missing_choice(group: str, choice: str, options: Sequence[str]) -> str:
    """Return what to say of a choice that its group does not have."""
    near = difflib.get_close_matches(choice.lower(), options, 1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"there is no {group}={choice}{hint}; the choices are {', '.join(options)}"


def _look_up(word: str, key: str, choices: Mapping[str, DictConfig]) -> None:
    """Refuse an option that some of the choices, or all, lack. Raises UserError."""
    *above, last = key.split(".")[1:]
    levels = {name: OmegaConf.select(node, ".".join(above)) if above else node for name, node in choices.items()}
    known = {name: [str(k) for k in level] if isinstance(level, DictConfig) else [] for name, level in levels.items()}
    lacking = [name for name in choices if last not in known[name]]
    if not lacking or "[" in key:
        return
    having = [name.partition("=")[2] for name in choices if name not in lacking]
    if having:
        group = key.partition(".")[0]
        raise UserError(
            f"{word}: {', '.join(lacking)} has no {'.'.join([*above, last])}; sweep {group}={','.join(having)} with it "
            "and the rest without it, in two commands"
        )
    near = difflib.get_close_matches(last, {option for options in known.values() for option in options}, 1)
    hint = f"did you mean {near[0]}?" if near else f"--cfg job {lacking[0]} shows the options that there are"
    raise UserError(f"unknown option {key}: {', '.join(lacking)} has no such; {hint}")
