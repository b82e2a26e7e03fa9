"""UAP: the first universal perturbation, a sum of smallest moves over the boundary."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gauntlet.attacks.fab import reach
from gauntlet.attacks.losses import margin
from gauntlet.attacks.universal.universal_perturbation import (
    Images,
    Universal,
    UniversalState,
    classes_of,
    metered,
    moved,
    shuffled,
)
from gauntlet.knobs import knob
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat

BATCH = 64
"""Images that are read, and clean predictions that are asked for, at a time; changes no result."""


@dataclass(frozen=True, kw_only=True)
class UAP(Universal):
    """Universal adversarial perturbation (Moosavi-Dezfooli et al. 2017, arXiv 1610.08401), for linf and l2.

    Goes over the training images one by one. Where the perturbed image is still classified as the clean one, DeepFool
    (arXiv 1511.04599) finds a small l2 move over the boundary, inside the box; it is added to the perturbation, and the
    sum is brought back into the ball. It ends when the perturbation fools the share `fooling` of the training images.
    Each DeepFool step costs a forward and a backward for each rival class.

    Args:
        images: training images to use, >= 1, chosen by the seed; null: all of them.
        epochs: over these images at most, >= 1.
        fooling: share of the training images at which it stops, in (0, 1].
        steps: of DeepFool at most, >= 1; an image whose boundary they do not reach adds nothing.
        classes: DeepFool looks at the label and this many best rivals, >= 1.
        overshoot: how far DeepFool goes beyond the boundary, as a share of the way, >= 0.
        delta: the fitted perturbation.

    Raises:
        UserError: a value outside its range.
    """

    revisions: ClassVar[dict[str, int]] = {"linf": 2, "l2": 2}  # in version 1 DeepFool went on where two scores tied

    epochs: int = knob(10, least=1)
    fooling: float = knob(0.8, above=0, most=1)
    steps: int = knob(10, least=1)
    classes: int = knob(9, least=1)
    overshoot: float = knob(0.02, least=0)

    def length(self, count: int) -> int:
        return self.epochs * -(-count // BATCH)

    def fit(
        self, head: CountedHead, images: Images, *, threat: Threat, rng: Rng, state: UniversalState | None = None
    ) -> Iterator[UniversalState]:
        count = len(images.ids)
        state = UniversalState.start(images) if state is None else state
        batches = self.length(count) // self.epochs
        for epoch in range(state.step // batches, self.epochs):
            order = shuffled(rng, epoch)
            for number in range(state.step - epoch * batches, batches):
                at = order[number * BATCH : (number + 1) * BATCH]
                state = self._pass(head, images, at, state, threat, rng.stream(epoch))
                if number == batches - 1:
                    state = self._judged(head, images, state, threat, rng.stream("end").stream(epoch))
                yield state

    def _pass(
        self, head: CountedHead, images: Images, at: Tensor, state: UniversalState, threat: Threat, rng: Rng
    ) -> UniversalState:
        """Visit the images at these positions, one after the other."""
        x, _ = images.read(at)
        delta, labels = state.delta, state.labels
        if (labels[at] < 0).any():
            counted = metered(head, rng.ids[at].sort().values)
            labels = labels.index_copy(0, at, classes_of(counted, x, rng.select(at).stream("labels")))
            state = state.paid(counted)
        for number, position in enumerate(at.split(1)):  # type: ignore[no-untyped-call]
            draw = rng.select(position)
            z = (x[number] + delta).clamp(threat.low, threat.high)[None]
            push, state = self._deepfool(head, z, labels[position], threat, draw, state)
            if push is not None:
                delta = moved(delta, push, threat)
        return state._replace(delta=delta, labels=labels, step=state.step + 1)

    def _deepfool(
        self, head: CountedHead, start: Tensor, y: Tensor, threat: Threat, rng: Rng, state: UniversalState
    ) -> tuple[Tensor | None, UniversalState]:
        """Return the move [C, H, W] from an image [1, C, H, W] over the boundary of its label y [1], and what it cost.

        None where the image is over it already, or no boundary was reached.
        """
        counted, z, path = metered(head, rng.ids), start, torch.zeros_like(start)
        push = None
        for number in range(self.steps + 1):
            draw = rng.stream(number)
            logits, pull = counted.linearize(z, draw)
            if bool(counted.broken(z, logits, y, draw)):
                push = (1 + self.overshoot) * path[0] if number else None
                break
            step = self._nearest(z, logits, pull, y, threat) if number < self.steps else None
            if step is None:
                break
            path = path + step
            z = (start + (1 + self.overshoot) * path).clamp(threat.low, threat.high)
        return push, state.paid(counted)

    def _nearest(
        self, z: Tensor, logits: Tensor, pull: Callable[[Tensor], Tensor], y: Tensor, threat: Threat
    ) -> Tensor | None:
        """Return the least l2 move in the box over a linearized boundary, like z [1, C, H, W]; None where there is
        none.
        """
        order = logits.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)
        target = order[0, : min(self.classes, logits.shape[1] - 1)]
        gradient = torch.cat([pull(margin(logits, y, rival)) for rival in target.split(1)])  # type: ignore[no-untyped-call]
        need = (logits[0, y] - logits[0, target]).to(z.dtype) / 2  # the cotangent is half of e_t - e_y
        step, _ = reach(z.expand_as(gradient), gradient, need, Threat("l2", 1.0, threat.low, threat.high))
        short = (gradient * step).flatten(1).sum(1) < 0.999 * need  # the box ends before the boundary
        length = step.flatten(1).norm(dim=1).masked_fill(short | (need <= 0), math.inf)
        best = length.argmin()
        return step[best][None] if length[best] < math.inf else None

    def _judged(
        self, head: CountedHead, images: Images, state: UniversalState, threat: Threat, rng: Rng
    ) -> UniversalState:
        """Return the state at the end of an epoch, moved to the end of the fit where enough images are fooled."""
        fooled = 0
        for at in torch.arange(len(images.ids), device=images.ids.device).split(BATCH):  # type: ignore[no-untyped-call]
            draw = rng.select(at)
            counted, (x, _) = metered(head, draw.ids), images.read(at)
            z = (x + state.delta).clamp(threat.low, threat.high)
            fooled += int((classes_of(counted, z, draw) != state.labels[at]).sum())
            state = state.paid(counted)
        enough = fooled >= self.fooling * len(images.ids)
        return state._replace(step=self.length(len(images.ids))) if enough else state
