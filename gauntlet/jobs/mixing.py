"""Images of the attacked data set for attacks that mix them into others."""

from dataclasses import replace
from typing import Any

from harness.data.contract import Split


def stocked(attack: Any, split: Split) -> Any:
    """The attack, or suite, with the images that it asks for in `pool`: spread evenly over the split, so that a sorted
    one gives several classes too. They depend on the split alone, never on the batch, the chunk or the shard."""
    stages: dict[str, Any] | None = getattr(attack, "stages", None)
    if stages:
        return replace(attack, stages={name: stocked(part, split) for name, part in stages.items()})
    count = min(getattr(attack, "pool", 0), len(split))
    if not count:
        return attack
    batch = split.read([number * len(split) // count for number in range(count)])
    return attack.stocked(batch.x, batch.y)
