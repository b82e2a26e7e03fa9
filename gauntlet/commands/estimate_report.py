"""What a run would take, stage by stage, and how that is said."""

import math
from dataclasses import dataclass, field

from gauntlet.evidence.example_storage import size
from gauntlet.system.progress import duration


@dataclass
class StageCost:
    """What one stage takes.

    Attributes:
        passes: of one image where all fall, and where none falls; None: unknown.
        seconds: of the whole stage, alike.
        tried: seconds of the whole stage if all images go as those of the trial did; None: there was none.
        source: where the passes come from.
    """

    name: str
    passes: tuple[float, float] | None
    seconds: tuple[float, float] | None
    tried: float | None
    source: str


@dataclass
class Estimate:
    """What a run takes: `images` in `chunks`; bytes of memory and at most on disk; images of the trial."""

    title: str
    images: int
    chunks: int
    costs: list[StageCost]
    memory: int
    disk: int
    trial: int
    device: str
    remarks: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> tuple[float, float]:
        """Return both ends, without what is unknown."""
        ends = [cost.seconds for cost in self.costs if cost.seconds]
        return sum(low for low, _ in ends), sum(high for _, high in ends)

    @property
    def whole(self) -> bool:
        """Return whether every stage is known."""
        return all(cost.seconds for cost in self.costs)


def lines(found: Estimate) -> list[str]:
    """Return an estimate as lines."""
    low, high = found.seconds
    out = ["", f"estimate for {found.title}, on {found.device}; nothing is written"]
    out.append(f"images    {found.images:,}, in {found.chunks:,} chunks")
    out.append(f"{'stage':<24}{'passes per image':>22}{'all fall':>12}{'none falls':>12}  from")
    for cost in found.costs:
        passes = "unknown" if cost.passes is None else " to ".join(f"{each:,.0f}" for each in cost.passes)
        ends = ["unknown"] * 2 if cost.seconds is None else [duration(each) for each in cost.seconds]
        out.append(f"{cost.name:<24}{passes:>22}{ends[0]:>12}{ends[1]:>12}  {cost.source}")
    tried = [cost.tried for cost in found.costs]
    like = ""
    if found.trial and all(each is not None for each in tried):
        like = f"; {duration(sum(filter(None, tried)))} if all go as {some_images(found.trial)} did in a trial"
    reach = f"{duration(low)} to {duration(high)}" if found.whole else f"unknown, beside {duration(high)} for the rest"
    out.append(f"time      {reach}{like}")
    out.append(f"memory    about {size(found.memory)} at the batch size of the run")
    out.append(f"disk      up to {size(found.disk)}")
    return [*out, *found.remarks]


def seconds_of(
    chunks: list[int], share: float, batch: int, tried: int, step: float, steps: float, passes: float, each: float
) -> float:
    """Return the seconds of a stage that attacks this share of each chunk.

    A step of a batch takes what it took in the trial, whatever else the attack does in it, and a pass more for each
    image that the batch has more.

    Args:
        chunks: images of each.
        batch: the most images of a batch.
        tried: images of the trial, whose step took `step` seconds; without any, a step is its passes.
        steps: of a batch.
        passes: of an image.
        each: seconds of a pass for one image.
    """
    total = 0.0
    for images in chunks:
        due = share * images
        batches = math.ceil(due / batch)
        total += batches * steps * step + max(0.0, due - batches * tried) * passes * each
    return total


def some_images(count: int) -> str:
    """Return a number of images in words."""
    return f"{count:,} image{'s' * (count != 1)}"
