"""Put the weights of a finished training into the zoo: `gauntlet ship FOLDER NAME`."""

import json
from pathlib import Path
from typing import Any

from gauntlet.commands.terminal import say, write
from gauntlet.config.validate import build
from gauntlet.errors import UserError
from gauntlet.evidence.stable_names import from_record
from gauntlet.models import checkpoint
from gauntlet.system import provenance
from gauntlet.system.file_reader import read_json
from gauntlet.training import history
from gauntlet.training.loop import BEST
from gauntlet.training.trained_network import PART
from gauntlet.training.weights_cache import ZOO


def ship(folder: Path, name: str, zoo: Path = ZOO) -> dict[str, str]:
    """Copy the best weights of a training folder to `zoo/NAME.safetensors` and return the metadata written with them.

    The metadata are key (of the training), command, config, clean and robust (validation accuracies; robust: under the
    attack of the recipe's selection), passes (forward and backward, per training image), seconds and torch (version).

    Raises:
        UserError: the folder holds no finished training.
    """
    if not (folder / BEST).exists():
        raise UserError(f"{folder} holds no finished training; make one with train.py, which prints its folder")
    done, part = history.read(folder), _recorded(folder / PART)
    if done.best is None:
        raise UserError(f"{folder} holds an unfinished training; the same train.py command goes on with it")
    module = build(from_record(part["model"]))
    checkpoint.load(module, folder / BEST)
    metadata = {
        "key": part["key"],
        "command": part["command"],
        "config": json.dumps({name: part[name] for name in ("model", "recipe", "seed")}, sort_keys=True),
        "clean": f"{done.best.clean:.4f}",
        "robust": f"{done.best.pgd:.4f}",
        "passes": f"{sum(epoch.forwards + epoch.backwards for epoch in done.epochs):.0f}",
        "seconds": f"{done.seconds:.0f}",
        "torch": provenance.versions()["torch"],
    }
    checkpoint.save(module, zoo / f"{name}.safetensors", metadata)
    return metadata


def _recorded(path: Path) -> dict[str, Any]:
    """Return what a training was made from."""
    hint = "train the network anew"
    try:
        part = read_json(path, hint=hint)
    except FileNotFoundError:
        raise UserError(f"{path} is not there; {hint}") from None
    found = part if isinstance(part, dict) else {}
    lacking = [key for key in ("key", "command", "model", "recipe", "seed") if key not in found]
    if lacking:
        raise UserError(f"{path} is damaged: it lacks {', '.join(lacking)}; {hint}")
    return found


def row(name: str, metadata: dict[str, str]) -> str:
    """Return the line of a shipped file in the table of `gauntlet/models/zoo/README.md`."""
    clean, robust = (f"{float(metadata[column]):.1%}" for column in ("clean", "robust"))
    cost = f"{metadata['passes']} | {metadata['seconds']} s"
    return f"| `{name}` | `{metadata['command']}` | {clean} | {robust} | {cost} |"


def main(arguments: list[str]) -> int:
    """Return the exit status."""
    if len(arguments) != 2:
        say("usage: gauntlet ship FOLDER NAME")
        return 2
    try:
        metadata = ship(Path(arguments[0]), arguments[1])
    except UserError as cause:
        say(f"error: {cause}")
        return 1
    write(
        f"{ZOO / arguments[1]}.safetensors is there; its line in gauntlet/models/zoo/README.md:\n"
        f"{row(arguments[1], metadata)}"
    )
    return 0
