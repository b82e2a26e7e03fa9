"""What an attack is, and what it declares of itself."""

from typing import Any, ClassVar, Literal
from typing import Protocol as Interface

from torch import Tensor

from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat

Coverage = Literal["standing", "correct", "all"]
"""Which samples a stage attacks: those that still stand (a suite: each stage sees what the ones before left), those
that are right as they are (exhaustive: each pair of source and attack is measured by itself), or all."""


class Attack(Interface):
    """What an attack is: knobs bound by value, and a call that returns candidates only.

    A call has at most `batch_size` samples, and what becomes of one must not depend on the others. An attack that does
    compare samples has `cross_sample = True`: it is called once per chunk, with all that stands there, and cuts its
    passes itself with `head.batches`. One with `mixture = True` is called once on all `members` of a mixture, in place
    of once on each head; on another defense `members` is the head itself.

    The head is the narrowest door that serves what the attack needs: see `gauntlet.threat_model.access`.
    """

    needs: ClassVar[str]

    def __call__(self, head: Any, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor: ...


def compares(attack: object) -> bool:
    """Whether an attack, or a stage of a suite, compares samples, so that its finds depend on the cut into chunks."""
    parts = getattr(attack, "stages", {"": attack}).values()
    return any(getattr(part, "cross_sample", False) for part in parts)
