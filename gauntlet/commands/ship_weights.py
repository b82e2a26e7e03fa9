"""Put the weights of a finished training into the zoo: `python -m training.ship FOLDER NAME`."""

import json
import sys
from pathlib import Path

from harness import checkpoint, environment
from harness.cli import write
from harness.cli_errors import say
from harness.compose import build
from harness.errors import UserError
from training import history
from training.loop import BEST
from training.part import PART
from training.zoo import ZOO


def ship(folder: Path, name: str, zoo: Path = ZOO) -> dict[str, str]:
    """Copy the best weights of a training folder to `zoo/NAME.safetensors` and return the metadata written with them.

    The metadata are key (of the training), command, config, clean and robust (validation accuracies; robust: under the
    attack of the recipe's selection), passes (forward and backward, per training image), seconds and torch (version).

    Raises:
        UserError: the folder holds no finished training.
    """
    if not (folder / BEST).exists():
        raise UserError(f"{folder} holds no finished training; make one with train.py, which prints its folder")
    part, done = json.loads((folder / PART).read_bytes()), history.read(folder)
    assert done.best is not None
    module = build(part["model"])
    checkpoint.load(module, folder / BEST)
    metadata = {
        "key": part["key"],
        "command": part["command"],
        "config": json.dumps({name: part[name] for name in ("model", "recipe", "seed")}, sort_keys=True),
        "clean": f"{done.best.clean:.4f}",
        "robust": f"{done.best.pgd:.4f}",
        "passes": f"{sum(epoch.forwards + epoch.backwards for epoch in done.epochs):.0f}",
        "seconds": f"{done.seconds:.0f}",
        "torch": environment.versions()["torch"],
    }
    checkpoint.save(module, zoo / f"{name}.safetensors", metadata)
    return metadata


def row(name: str, metadata: dict[str, str]) -> str:
    """The line of a shipped file in the table of `models/zoo/README.md`."""
    clean, robust = (f"{float(metadata[column]):.1%}" for column in ("clean", "robust"))
    cost = f"{metadata['passes']} | {metadata['seconds']} s"
    return f"| `{name}` | `{metadata['command']}` | {clean} | {robust} | {cost} |"


def main(arguments: list[str]) -> int:
    """The exit status."""
    if len(arguments) != 2:
        say("usage: python -m training.ship FOLDER NAME")
        return 2
    try:
        metadata = ship(Path(arguments[0]), arguments[1])
    except UserError as cause:
        say(f"error: {cause}")
        return 1
    write(
        f"{ZOO / arguments[1]}.safetensors is there; its line in models/zoo/README.md:\n{row(arguments[1], metadata)}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
