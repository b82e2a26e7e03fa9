"""An evaluation: an attack on a victim under a threat, and its stages. `gauntlet.evaluation.chunk` runs them."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gauntlet.attacks.linearized_boundary import DUAL
from gauntlet.errors import UserError
from gauntlet.evaluation.randomized_protocol import Protocol
from gauntlet.threat_model.access import GRADIENT, TRANSFER, admit, level_of, weaker
from gauntlet.threat_model.attack import Attack, Coverage, stages_of, traits_of
from gauntlet.threat_model.counted_head import TRIALS, CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.mixture import MEMBERS, mixed, on_members
from gauntlet.threat_model.passes import Passes
from gauntlet.threat_model.rejection import rejecting
from gauntlet.threat_model.targeted import check_targeted, targeting
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Forward, Head, Victim


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
        fused: the same defense over networks that are cheaper to differentiate; it proposes, `victim` judges.
        heads: "declared": gradient attacks run on every head. "true": on the deployed forward only, for comparison.
        batch_size: samples per forward pass; changes no record.
        gradients: reduced precision of the gradient passes; None: that of the images.
        coverage: which samples a stage attacks.
        every: whether candidates that fooled nobody are handed out too, as adversarial examples to be stored.
        access: what the attacker is given: gradient, score or decision; the victim may give less.
        protocol: how the predictions of a randomized victim are counted; without effect on a deterministic one.
        listed: the class that each sample is to become, int64 [n] by its id, where the data set says it.
        full_passes: whether calls of an attack run side by side, so that their images fill passes of a whole batch;
            see `gauntlet.evaluation.full_passes`. Changes no record but by rounding, as the batch size does.
        fitted: stage -> its attack after it has learned from training images; see `gauntlet.evaluation.universal_fit`.

    Raises:
        UserError: a stage needs more than that, or the targets are not defined for the threat.
    """

    victim: Victim
    attack: tuple[str, Attack]
    threat: Threat
    classes: int
    seed: int = 0
    fused: Victim | None = None
    heads: str = "declared"
    batch_size: int = 128
    gradients: torch.dtype | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    coverage: Coverage = "standing"
    every: bool = False
    access: str = GRADIENT
    protocol: Protocol = field(default_factory=Protocol)
    listed: Tensor | None = None
    fitted: dict[str, Attack] = field(default_factory=dict)
    full_passes: bool = True

    def __post_init__(self) -> None:
        admit(*self.attack, self.access)
        admit(*self.attack, self.given, f"the defense declares access={self.victim.access}")
        if self.threat.targeted and self.threat.target == "column" and self.listed is None:
            raise UserError(
                "threat.target=column needs a data set that says targets (dataset=parquet dataset.target=COLUMN); or "
                "use threat.target=random"
            )
        if self.threat.targeted and self.threat.target == "nearest" and self.threat.norm not in DUAL:
            raise UserError(
                f"threat.target=nearest is defined for {', '.join(DUAL)}, not for {self.threat.norm}; use "
                "threat.target=runner_up"
            )
        if self.victim.accepts is not None and self.rule is not None and self.rule.rule == "vote":
            raise UserError("protocol=vote is not defined where a randomized defense rejects; take protocol=expected")
        for stage in self.stages:
            if self.threat.targeted:
                check_targeted(stage.name, stage.attack, self.victim)
            needed = traits_of(stage.attack).fewest_classes
            if self.classes < needed:
                why = f"the loss of {stage.name} needs {needed} classes, there are {self.classes}"
                raise UserError(f"{why}; use attack.loss=margin")

    @property
    def given(self) -> str:
        """Return the access that the attacker has in the end."""
        return weaker(self.access, self.victim.access)

    @property
    def rule(self) -> Protocol | None:
        """Return the protocol of a randomized victim; None for another."""
        return self.protocol if self.victim.randomized else None

    @property
    def exact(self) -> bool:
        """Return whether verdicts are exact expectations over the members of a mixture."""
        return self.protocol.exact(self.victim)

    @property
    def stages(self) -> list[Stage]:
        """Return the stages in the order in which they run, the true head first."""
        return [stage for each, part in self._parts.items() for stage in self._on_heads(each, part)]

    @property
    def replaced(self) -> dict[str, str]:
        """Return the knob of a suite's stage -> the loss that it has here, where the classes are too few for its own.

        A suite is one choice for all data sets, so it runs with what is defined. An attack by itself is refused.
        """
        return {f"attack.stages.{name}.loss": "margin" for name in self._undefined}

    @property
    def _parts(self) -> dict[str, Any]:
        """Return name -> attack of each part, with the margin in place of a loss that needs more classes."""
        found: dict[str, Any] = stages_of(*self.attack, self.threat.norm)
        return found | {name: replace(found[name], loss="margin") for name in self._undefined}

    @property
    def _undefined(self) -> list[str]:
        """Return the stages of a suite whose loss needs more classes."""
        if not traits_of(self.attack[1]).stages:
            return []
        found = stages_of(*self.attack, self.threat.norm)
        return [
            name
            for name, part in found.items()
            if traits_of(part).fewest_classes > self.classes and hasattr(part, "loss")
        ]

    def _on_heads(self, name: str, attack: Attack) -> Iterator[Stage]:
        fused_heads = {head.name: head for head in self.fused.heads} if self.fused else {}
        level = level_of(attack)
        if level == TRANSFER:
            yield Stage(name, attack, self.victim.heads[0], None)  # its name says what it was crafted on
            return
        if self.heads != "true" and self.victim.members and on_members(attack):
            yield Stage(f"{name}/{MEMBERS}", attack, Head(MEMBERS, self.victim.predict), None)
            return
        alone = self.heads == "true" or level != GRADIENT
        for head in self.victim.heads[:1] if alone else self.victim.heads:
            stage = f"{name}/{head.name}"
            yield Stage(stage, self.fitted.get(stage, attack), head, fused_heads.get(head.name))

    @property
    def forwards(self) -> list[Forward]:
        """Return every forward of the defense whose images may share a pass, whichever call hands them in."""
        heads = [*self.victim.heads, *(self.fused.heads if self.fused else ())]
        return [self.victim.predict, *(head.forward for head in heads)]

    def counted_head(
        self,
        stage: Stage,
        counts: Counts,
        y: Tensor | None = None,
        target: Tensor | None = None,
        passes: Passes | None = None,
    ) -> CountedHead:
        """Return the head of a stage as its attack sees it; passes are booked in `counts`.

        Args:
            y: labels int64 [B] of the samples of `counts`, which a rejecting defense and a targeted attack need.
            target: their targets, of a targeted attack.
            passes: how images pass the networks; None: each call's by themselves.
        """
        fast = stage.fast.forward if stage.fast else None
        trials, members = TRIALS if self.rule else 1, self.victim.members
        member_predictors = tuple(head.forward for head in members) if self.exact else ()
        head = CountedHead(
            stage.head, self.victim.predict, counts, fast, self.gradients,
            batch_size=self.batch_size, trials=trials, member_predictors=member_predictors,
            passes=passes or Passes(),
        )  # fmt: skip
        if target is not None and y is not None:
            return targeting(head, y, target)
        if self.victim.accepts is not None:
            return rejecting(head, self.victim.accepts, y, level_of(stage.attack))
        if stage.head.name != MEMBERS or not members:
            return head
        return mixed(head, members, {head.name: head for head in self.fused.heads} if self.fused else {})
