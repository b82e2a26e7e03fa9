"""The one loop that attacks and judges. No attack grades itself.

For each chunk of samples: the clean prediction, then every stage on the samples that it covers, for each candidate the
membership in the threat and a fresh float32 prediction of the deployed pipeline, then a row. Nothing here prints, reads
or writes files.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal
from typing import Protocol as Interface

import torch
from torch import Tensor

from harness.access import GRADIENT, TRANSFER, admit, weaker
from harness.data.contract import Batch
from harness.errors import UserError
from harness.ledger import Chunk, Ledger, timed
from harness.meter import TRIALS, Counts, MeteredHead
from harness.mixture import MEMBERS, mixed, on_members
from harness.protocol import Protocol
from harness.records import CLEAN_STAGE
from harness.rng import Rng
from harness.sanity import check_images
from harness.threat import Threat
from harness.victim import Head, Victim

Coverage = Literal["standing", "correct", "all"]
"""Which samples a stage attacks: those that still stand (a suite: each stage sees what the ones before left), those
that are right as they are (exhaustive: each pair of source and attack is measured by itself), or all."""


class Attack(Interface):
    """What an attack is: knobs bound by value, and a call that returns candidates only.

    A call has at most `batch_size` samples, and what becomes of one must not depend on the others. An attack that does
    compare samples has `cross_sample = True`: it is called once per chunk, with all that stands there, and cuts its
    passes itself with `head.batches`. One with `mixture = True` is called once on all `members` of a mixture, in place
    of once on each head; on another defense `members` is the head itself.

    The head is the narrowest door that serves what the attack needs: see `harness.access`.
    """

    needs: ClassVar[str]

    def __call__(self, head: Any, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor: ...


@dataclass(frozen=True)
class Stage:
    """One attack on one head."""

    name: str
    attack: Attack
    head: Head
    fast: Head | None


@dataclass(frozen=True)
class Evaluation:
    """An attack on a victim under a threat.

    Args:
        victim: the deployed defense, in float32 and eval mode.
        attack: its name and the attack.
        threat: what the attacker may change.
        classes: number of classes that scores must have.
        seed: of every random draw.
        twin: the same defense over networks that are cheaper to differentiate; it proposes, `victim` judges.
        heads: "declared": gradient attacks run on every head. "true": on the deployed forward only, for comparison.
        batch_size: samples per forward pass; changes no record.
        gradients: reduced precision of the gradient passes; None: that of the images.
        coverage: which samples a stage attacks.
        every: whether candidates that fooled nobody are handed out too, as adversarial examples to be stored.
        access: what the attacker is given: gradient, score or decision; the victim may give less.
        protocol: how the predictions of a randomised victim are counted; without effect on a deterministic one.
        fitted: stage -> its attack after it has learned from training images; see `harness.universal`.

    Raises:
        UserError: a stage needs more than that.
    """

    victim: Victim
    attack: tuple[str, Attack]
    threat: Threat
    classes: int
    seed: int = 0
    twin: Victim | None = None
    heads: str = "declared"
    batch_size: int = 128
    gradients: torch.dtype | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    coverage: Coverage = "standing"
    every: bool = False
    access: str = GRADIENT
    protocol: Protocol = field(default_factory=Protocol)
    fitted: dict[str, Attack] = field(default_factory=dict)

    def __post_init__(self) -> None:
        admit(*self.attack, self.access)
        admit(*self.attack, self.given, f"the defense declares access={self.victim.access}")
        for stage in self.stages:
            needed = getattr(stage.attack, "fewest_classes", 2)
            if self.classes < needed:
                key = "attack" if stage.attack is self.attack[1] else f"attack.stages.{stage.name.split('/')[0]}"
                why = f"the loss of {stage.name} needs {needed} classes, there are {self.classes}"
                raise UserError(f"{why}; use {key}.loss=margin")

    @property
    def given(self) -> str:
        """What the attacker has in the end."""
        return weaker(self.access, self.victim.access)

    @property
    def rule(self) -> Protocol | None:
        """The protocol, of a randomised victim."""
        return self.protocol if self.victim.randomized else None

    @property
    def exact(self) -> bool:
        """Whether verdicts are exact expectations over the members of a mixture."""
        return self.protocol.exact(self.victim)

    @property
    def stages(self) -> list[Stage]:
        """In the order in which they run, the true head first."""
        name, attack = self.attack
        suite: dict[str, Attack] = getattr(attack, "stages", {name: attack})
        if hasattr(attack, "under"):
            suite = attack.under(self.threat.norm)
        return [stage for each, part in suite.items() for stage in self._on_heads(each, part)]

    def _on_heads(self, name: str, attack: Attack) -> Iterator[Stage]:
        twins = {head.name: head for head in self.twin.heads} if self.twin else {}
        if attack.needs == TRANSFER:
            yield Stage(name, attack, self.victim.heads[0], None)  # its name says what it was crafted on
            return
        if self.heads != "true" and self.victim.members and on_members(attack):
            yield Stage(f"{name}/{MEMBERS}", attack, Head(MEMBERS, self.victim.predict), None)
            return
        alone = self.heads == "true" or attack.needs not in ("gradient", "training-set")
        for head in self.victim.heads[:1] if alone else self.victim.heads:
            stage = f"{name}/{head.name}"
            yield Stage(stage, self.fitted.get(stage, attack), head, twins.get(head.name))

    def door(self, stage: Stage, counts: Counts) -> MeteredHead:
        """The head of a stage as its attack sees it; passes are booked in `counts`."""
        fast = stage.fast.forward if stage.fast else None
        trials, members = TRIALS if self.rule else 1, self.victim.members
        jury = tuple(head.forward for head in members) if self.exact else ()
        door = MeteredHead(
            stage.head, self.victim.predict, counts, fast, self.gradients,
            batch_size=self.batch_size, trials=trials, jury=jury,
        )  # fmt: skip
        if stage.head.name != MEMBERS or not members:
            return door
        return mixed(door, members, {head.name: head for head in self.twin.heads} if self.twin else {})

    def chunk(self, batch: Batch, advance: Callable[[str, int], None] = lambda stage, count: None) -> Chunk:
        """Evaluate the samples of one chunk; `advance(stage, n)` is called as samples are done.

        Raises:
            UserError: pixels outside [0, 1], labels outside the classes, scores of the wrong shape or not finite.
        """
        order = batch.ids.argsort()
        ids, x, y = (t[order] for t in batch)
        check_images(ids, x, y, self.classes, (self.threat.low, self.threat.high))
        ledger = Ledger(self, ids, x, y)
        with timed(ledger.seconds, CLEAN_STAGE):
            ledger.clean()
        advance(CLEAN_STAGE, len(ids))
        for stage in self.stages:
            with timed(ledger.seconds, stage.name):
                due = ledger.due()
                advance(stage.name, len(ids) - len(due))
                size = max(len(due), 1) if compares(stage.attack) else self.batch_size
                for positions in due.split(size):  # type: ignore[no-untyped-call]
                    ledger.attack(stage, positions)
                    advance(stage.name, len(positions))
        return ledger.close()


def chunk_positions(samples: int, size: int, index: int) -> slice:
    """Positions of chunk `index` of a split."""
    return slice(index * size, min((index + 1) * size, samples))


def chunks_of(samples: int, size: int, shards: int, shard: int) -> Iterator[int]:
    """The chunks that a shard takes: index = shard modulo shards."""
    return iter(range(shard, -(-samples // size), shards))


def compares(attack: object) -> bool:
    """Whether an attack, or a stage of a suite, compares samples, so that its finds depend on the cut into chunks."""
    parts = getattr(attack, "stages", {"": attack}).values()
    return any(getattr(part, "cross_sample", False) for part in parts)
