"""What the commands that fit parameters of a defense share: what they fit, the images, and how they answer."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from torch import nn

from gauntlet.commands.terminal import one_line, say, write
from gauntlet.config.shipped import CONF
from gauntlet.config.trust import guard
from gauntlet.config.validate import build, checked
from gauntlet.data.dataset import Batch, Dataset, Split
from gauntlet.defenses.base import Defense
from gauntlet.errors import UserError
from gauntlet.jobs.setup import KEYS
from gauntlet.threat_model.threat import Threat

BATCH = 256

guard()


class Setting(NamedTuple):
    """What the options of run.py choose."""

    dataset: Dataset
    threat: Threat
    defense: Defense
    name: str  # of the defense, as run.py takes it
    cache: Path  # of trained networks
    progress: bool
    device: torch.device

    @classmethod
    def of(cls, defense: str, overrides: Sequence[str]) -> "Setting":
        """Return the defense unless the overrides choose another; the number of threads is set. Raises UserError."""
        with initialize_config_dir(CONF, version_base=None):
            cfg = checked(compose("run", [f"defense={defense}", *overrides]), KEYS)
        runtime = build(cfg.runtime)
        torch.set_num_threads(runtime.threads)
        cache = Path(cfg.runs_dir) / "_trained"
        name = [defense, *(each[len("defense=") :] for each in overrides if each.startswith("defense="))][-1]
        chosen = build(cfg.dataset), build(cfg.threat), build(cfg.defense)
        return cls(*chosen, name, cache, runtime.progress, runtime.torch_device())

    def images(self, part: str, samples: int) -> Split:
        """Return the part of the data set to fit on. Raises UserError where one of its first images is evaluated."""
        if part not in ("train", "validation", "test"):
            raise UserError(f"--part {part} is unknown; choose validation or train")
        split = self.dataset.split(part)
        check_disjoint(part, split, self.dataset.split("test"), samples)
        return split

    def models(self) -> dict[str, nn.Module]:
        """Return the networks of all parts of the defense, trained where they are not there yet."""
        models: dict[str, nn.Module] = {}
        for name, part in self.defense.parts.items():
            given = {other: models[other] for other in part.uses}
            models[name] = part.load(self.dataset, self.cache, given=given, progress=self.progress).module
        return models


def batches(split: Split, samples: int) -> Iterator[Batch]:
    """The first images of a split, those of each batch by rising ids."""
    count = min(samples, len(split))
    for start in range(0, count, BATCH):
        batch = split.read(slice(start, min(start + BATCH, count)))
        order = batch.ids.argsort()
        yield Batch(*(t[order] for t in batch))


def check_disjoint(part: str, split: Split, test: Split, samples: int) -> None:
    """Refuse calibration images that are evaluated, whatever they are called. Raises UserError."""
    if part == "test":
        raise UserError("--part test is what is evaluated: parameters fitted to it prove nothing; take validation")
    known = {image.numpy().tobytes() for batch in batches(test, len(test)) for image in batch.x}
    shared = sum(image.numpy().tobytes() in known for batch in batches(split, samples) for image in batch.x)
    if shared:
        raise UserError(f"{shared} of the calibration images are test images too; give other data, or fewer --samples")


def answer(work: Callable[[], list[str]]) -> int:
    """Print the lines that the work gives, or in one what is wrong; the exit status."""
    try:
        write("\n".join(work()))
    except HydraException as cause:
        say(f"error: {one_line(cause)}")
        return 1
    except UserError as cause:
        say(f"error: {cause}")
        return 1
    return 0
