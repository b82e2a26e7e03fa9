"""The first images, and the ways in which the checks look at the victim."""

from functools import cached_property

import torch
from torch import Tensor

from gauntlet.data.dataset import Batch
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.sanity_checks.local_linearity import LocalLinearity
from gauntlet.threat_model.access import GRADIENT
from gauntlet.threat_model.attack import Attack
from gauntlet.threat_model.counted_head import TRIALS, CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.decision import decided
from gauntlet.threat_model.passes import BatchedPasses
from gauntlet.threat_model.rejection import rejecting
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat


@torch.no_grad()
def fidelity(run: Evaluation, batch: Batch) -> dict[str, dict[str, int]]:
    """Return head -> on how many `of` the first images its class `agrees` with the deployed one, and is `right`.

    One draw of each, the same for all heads. Costs one forward pass of each image for each head.
    """
    order = batch.ids.argsort()[:PROBE]
    ids, x, y = (t[order].to(run.device) for t in batch)
    rng = Rng(run.seed, ids, "fidelity")
    passes = BatchedPasses(run.batch_size)
    deployed = passes.forward(run.victim.predict, x, rng).argmax(1)
    found = {}
    for head in run.victim.surrogates:
        said = passes.forward(head.forward, x, rng).argmax(1)
        found[head.name] = {
            "agrees": int((said == deployed).sum()),
            "right": int((said == y).sum()),
            "of": len(ids),
        }
    return found


PROBE = 64
"""Images that the checks of a victim look at."""


class Probe:
    """The first images, and the ways in which the checks look at the victim."""

    def __init__(self, run: Evaluation, batch: Batch, survivors: set[int]) -> None:
        order = batch.ids.argsort()[:PROBE]
        self.run = run
        self.passes = BatchedPasses(max(run.batch_size, 2))  # alone, an image has no mates to depend on
        self.left = sum(int(sample) in survivors for sample in batch.ids[order]) / len(order)
        self.ids, self.x, self.y = (t[order].to(run.device) for t in batch)
        self.scores = self.predict(self.x, self.ids, "probe")

    @cached_property
    def linearity(self) -> LocalLinearity:
        """Return the margin of these images and its gradient."""
        run = self.run
        rng = Rng(run.seed, self.ids, "slope")
        return LocalLinearity(run.victim, run.threat, self.x, self.y, self.scores, rng, run.batch_size)

    def predict(self, x: Tensor, ids: Tensor, stream: str) -> Tensor:
        return self.passes.forward(self.run.victim.predict, x, Rng(self.run.seed, ids, stream))

    def accepted(self, x: Tensor, ids: Tensor, stream: str) -> Tensor:
        """Return which images get an answer, bool [B]: all of them where the defense does not reject."""
        accepts = self.run.victim.accepts
        if accepts is None:
            return torch.ones(len(x), dtype=torch.bool, device=x.device)
        return self.passes.forward(accepts, x, Rng(self.run.seed, ids, stream)) >= 0

    def accuracy(self, attack: Attack, threat: Threat) -> float:
        """Return the share of the probe that is right, or mostly right, after an attack on the true head."""
        run, right = self.run, (decided(self.scores, self.y) == self.y) & self.accepted(self.x, self.ids, "probe")
        if not right.any():
            return 0.0
        ids, x, y = self.ids[right], self.x[right], self.y[right]
        fast = run.fused.heads[0].forward if run.fused else None
        trials = TRIALS if run.victim.randomized else 1
        head = CountedHead(
            run.victim.heads[0], run.victim.predict, Counts.of(ids), fast, trials=trials, passes=self.passes
        )
        if run.victim.accepts is not None:
            head = rejecting(head, run.victim.accepts, y, GRADIENT)
        z = attack(head, x, y, threat=threat, rng=Rng(run.seed, ids, "probe")).detach()
        held = [
            (decided(self.predict(z, ids, f"judge/{k}"), y) == y) | ~self.accepted(z, ids, f"judge/{k}")
            for k in range(trials)
        ]
        wins = torch.stack(held).sum(0)
        return float((2 * wins >= trials).sum()) / len(self.y)
