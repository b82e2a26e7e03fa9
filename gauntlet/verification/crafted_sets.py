"""The candidates of a transfer run crafted again on the surrogates, for some samples, and the set compared with them.

A run that scores weak candidates reports a robustness that nobody attacked, and its own rows cannot show that.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from gauntlet.config.environment import as_typed
from gauntlet.data.chunks import chunk_positions
from gauntlet.errors import UserError
from gauntlet.evidence.adversarial_set import Arrays, Lookup
from gauntlet.jobs.attack_setup import AttackSetup
from gauntlet.threat_model.attack import compares
from gauntlet.training.weights_cache import canonical
from gauntlet.transfer.crafting import SetCrafter

ROUNDING = 1e-3
"""Pixels of a candidate may differ by this much where another machine rounds otherwise."""

COLUMNS = ("label", "clean_pred", "pred", "forwards", "backwards")
"""What a candidate that was crafted again must have as the set has it."""


def set_problems(job: AttackSetup, samples: Sequence[int]) -> Iterator[str]:
    """Yield a line for each set that is not of this run's surrogates, and for each candidate that is another one.

    Args:
        job: rebuilt, with a crafter for each set.
        samples: ids, as many as are to be crafted again.
    """
    place = {int(sample): at for at, sample in enumerate(job.split.ids)}
    for crafter in job.crafters:
        name = f"{crafter.craft.stage}: the adversarial set {crafter.to.path.name}"
        try:
            described = crafter.to.description
            odd = [key for key, value in crafter.key.items() if not _says(described.get(key), value)]
            if odd:
                yield f"{name} says another {odd[0]} than the run"
                continue
            yield from (f"{name}: {line}" for line in _differing(crafter, sorted(samples), place))
        except UserError as cause:
            yield f"{name} cannot be crafted again: {cause}"


def _says(recorded: object, value: object) -> bool:
    """Return whether a record says this, as it was computed or as it was typed."""
    return canonical(recorded) in (canonical(value), canonical(as_typed(value)))


def _differing(crafter: SetCrafter, samples: list[int], place: dict[int, int]) -> Iterator[str]:
    """Yield a line for each sample whose candidate is another one. Where sums may round with the batch, the part is
    crafted again in its recorded batches before that is said.
    """
    stored = Lookup(crafter.to).find(np.array(samples, np.int64))
    odd = list(samples)
    if not compares(crafter.craft.attack):
        size = crafter.to.description["chunk"]
        pieces = [samples[at : at + size] for at in range(0, len(samples), size)]
        odd = [
            sample
            for ids in pieces
            for sample in _unequal(stored, crafter.craft_samples([place[sample] for sample in ids]), ids)
        ]
    size = crafter.to.description["chunk"]
    for part in sorted({place[sample] // size for sample in odd}):
        mine = [sample for sample in odd if place[sample] // size == part]
        again = crafter.craft_samples(chunk_positions(len(crafter.split), size, part))
        for sample, why in _unequal(stored, again, mine).items():
            yield f"sample {sample}: crafted again, {why}"


def _unequal(stored: Arrays, again: Arrays, samples: list[int]) -> dict[int, str]:
    """Return how the candidates of these samples differ, for those that do."""
    one = {int(sample): row for row, sample in enumerate(stored["sample"])}
    other = {int(sample): row for row, sample in enumerate(again["sample"])}
    lines = {}
    for sample in samples:
        there, here = one[sample], other[sample]
        far = float(np.abs(stored["z"][there] - again["z"][here]).max())
        odd = [column for column in COLUMNS if not np.array_equal(stored[column][there], again[column][here])]
        if far > ROUNDING:
            lines[sample] = f"the candidate is another one, by up to {far:.3g} a pixel"
        elif odd:
            lines[sample] = f"{odd[0]} is {again[odd[0]][here].tolist()}, the set says {stored[odd[0]][there].tolist()}"
    return lines
