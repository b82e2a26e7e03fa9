"""What the attacker is given of a victim: gradients, scores, decisions or nothing (transfer).

An attack gets the narrowest handle that serves its `needs`, and that has no method for more: in no run can an attack
on scores take a gradient, or one on decisions read a score.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from gauntlet.errors import UserError
from gauntlet.threat_model.attack import leaves, traits_of
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.passes import HostValues
from gauntlet.threat_model.rng import Rng

GRADIENT = "gradient"

TRANSFER = "transfer"

LEVELS = (TRANSFER, "decision", "score", GRADIENT)
"""From the least to the most that an attacker may be given; also what an attack may need."""

_SUITABLE = {
    TRANSFER: "stored, or give surrogates",
    "decision": "rays or hop_skip_jump",
    "score": "square, rays or hop_skip_jump",
}

Ask = Callable[[Tensor, Rng], Tensor]


class DecisionHead:
    """The deployed defense, for an attacker who learns predicted classes and nothing else."""

    __slots__ = ("_decide", "_fooled")

    def __init__(self, decide: Ask, fooled: Callable[[Tensor, Tensor, Rng], Tensor]) -> None:
        self._decide, self._fooled = decide, fooled

    def decisions(self, z: Tensor, rng: Rng) -> Tensor:
        """Predicted classes, int64 [B], at the price of one forward for each sample."""
        return self._decide(z, rng)

    def broken(self, z: Tensor, y: Tensor, rng: Rng) -> Tensor:
        """Return which candidates fool the deployed forward, bool [B], at the same price.

        A randomized defense is asked again where it was wrong: see `CountedHead.fooled`.
        """
        return self._fooled(z, y, rng)


class ScoreHead:
    """A head for an attacker who learns scores, and never a gradient."""

    __slots__ = ("_blunt", "_broken", "_fallen", "_scores")

    def __init__(
        self,
        scores: Ask,
        broken: Callable[[Tensor, Tensor, Tensor, Rng, Tensor | None], Tensor],
        fallen: Callable[[Tensor, Tensor, Rng, Tensor], tuple[HostValues, ...]],
        blunt: DecisionHead,
    ) -> None:
        self._scores, self._broken, self._fallen, self._blunt = scores, broken, fallen, blunt

    def scores(self, z: Tensor, rng: Rng) -> Tensor:
        """Return scores [B, K], as `CountedHead.scores` gives them."""
        return self._scores(z, rng)

    def broken(
        self, z: Tensor, logits: Tensor, y: Tensor, rng: Rng, plain: bool = True, margin: Tensor | None = None
    ) -> Tensor:
        """Return which candidates fool the deployed forward, bool [B]; logits: what `scores` gave for them.

        margin is as in `CountedHead.broken`; plain changes nothing, since the logits come from `scores` alone: the
        call reads the same at every head.
        """
        return self._broken(z, logits, y, rng, margin)

    def fallen(self, z: Tensor, y: Tensor, rng: Rng, margin: Tensor, plain: bool = True) -> tuple[HostValues, ...]:
        """Return what `broken` says and the margin, on the host; see `CountedHead.fallen`."""
        return self._fallen(z, y, rng, margin)

    def blunted(self) -> DecisionHead:
        """Return the same defense for an attacker who learns decisions only."""
        return self._blunt


class CandidatesOnly:
    """No head at all: the attacker crafted elsewhere and only hands candidates in. What they cost is booked."""

    COLUMNS: ClassVar[tuple[str, ...]] = Counts.COLUMNS

    __slots__ = ("_counts",)

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def book(self, ids: Tensor, **columns: Any) -> None:
        """Book passes of the models crafted on, of these samples; columns: each of `COLUMNS`, integers [B]."""
        for name in self.COLUMNS:
            amount = torch.as_tensor(columns[name]).to(ids)
            self._counts.add(name, ids, amount)


Handle = CountedHead | ScoreHead | DecisionHead


def narrowed(handle: Handle, needs: str) -> Any:
    """Return the narrowest handle to the victim that serves an attack's needs: this one where nothing is left over.

    What is no level of access, such as "training-set", is taken to need gradients.
    """
    if needs == TRANSFER and isinstance(handle, CountedHead):
        return CandidatesOnly(handle.counts)
    if needs not in ("score", "decision"):
        return handle
    head = _without_gradients(handle) if isinstance(handle, CountedHead) else handle
    return head.blunted() if needs == "decision" and isinstance(head, ScoreHead) else head


def _without_gradients(head: CountedHead) -> ScoreHead:
    @torch.no_grad()
    def decide(z: Tensor, rng: Rng) -> Tensor:
        head.counts.add("forwards", rng.ids)
        return head.passes.forward(head.predict, z.detach(), rng.stream("verdict")).argmax(1)

    return ScoreHead(
        lambda z, rng: head.scores(z.detach(), rng),
        lambda z, logits, y, rng, margin: head.broken(z.detach(), logits, y, rng, True, margin),
        lambda z, y, rng, margin: head.fallen(z.detach(), y, rng, margin, plain=True),
        DecisionHead(decide, lambda z, y, rng: head.fooled(z.detach(), y, rng)),
    )


def known(access: str) -> str:
    """Return the access itself. Raises UserError where there is no such level."""
    if access not in LEVELS:
        raise UserError(f"access={access} is unknown; choose gradient, score or decision")
    return access


def weaker(one: str, other: str) -> str:
    """Return the access that gives less."""
    return min(known(one), known(other), key=LEVELS.index)


def level_of(attack: Any) -> str:
    """Return the level of access that an attack needs: gradients, too, where it is fitted to training images."""
    needs = traits_of(attack).needs
    return needs if needs in LEVELS else GRADIENT


def admit(name: str, attack: Any, access: str, why: str = "") -> None:
    """Refuse an attack of which a stage needs more than the attacker is given. Raises UserError.

    Args:
        name: of the attack.
        why: what limits the access, where that is not the configuration.
    """
    for who, part in leaves(f"attack={name}", attack, "attack"):
        needs = level_of(part)
        if LEVELS.index(needs) > LEVELS.index(access):
            limit = why or f"access={access}"
            raise UserError(
                f"{who} needs {needs}s, the attacker has {access}s only ({limit}); use attack={_SUITABLE[access]}"
            )
