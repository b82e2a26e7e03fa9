"""The judge: whether a candidate is legal, and what the deployed defense says of it. No attack judges itself.

Membership and distance are measured against the data set's own images, never against a tensor that user code was given.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.evaluation.randomized_protocol import REPORT, SELECT, DrawOutcome, Protocol, expectation
from gauntlet.threat_model.decision import decided
from gauntlet.threat_model.mixture import bits, probabilities, stacked
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.targeted import hits, target_margins
from gauntlet.threat_model.victim import Forward


@dataclass(frozen=True)
class Judged:
    """What the deployed defense says of some images: scores [B, K] and the predicted class [B].

    Where it is randomized the scores are means, `wrong` is the share of wrong draws [B], both over the draws that
    choose the worst candidate, and `fresh` is the share of wrong verdicts [B] in the draws that are reported. Of a
    mixture both are the exact expectation, and `fooled` tells the members that are wrong, int64 [B] (see `bits`).
    `target` of a targeted attack, int64 [B]: only that class counts against the defense, and margins are those to it.
    `acceptance` of a rejecting defense [B]: the answer is given where it is 0 or more. Of a randomized one it is the
    share of the draws that choose which accept, less one half.
    """

    scores: Tensor
    pred: Tensor
    wrong: Tensor | None = None
    fresh: Tensor | None = None
    fooled: Tensor | None = None
    acceptance: Tensor | None = None
    target: Tensor | None = None

    def broken(self, label: Tensor) -> Tensor:
        """Return what counts as a success of the attacker, bool [B]."""
        wrong = self.pred != label if self.target is None else self.pred == self.target
        return wrong & self.accepted

    @property
    def accepted(self) -> Tensor:
        """Return which images get an answer, bool [B]."""
        return torch.ones_like(self.pred, dtype=torch.bool) if self.acceptance is None else self.acceptance >= 0

    @property
    def finite(self) -> Tensor:
        """Return where all that was said is a number, bool [B]."""
        finite = self.scores.isfinite().all(1)
        return finite if self.acceptance is None else finite & self.acceptance.isfinite()

    def select(self, mask: Tensor) -> "Judged":
        """Select some of the images; mask: bool [B]."""
        each = (self.scores, self.pred, self.wrong, self.fresh, self.fooled, self.acceptance, self.target)
        return Judged(*(None if value is None else value[mask] for value in each))  # type: ignore[arg-type]

    def margins(self, label: Tensor) -> Tensor:
        """Return the true score minus the best other score, or of a targeted attack the best other score minus that of
        the target, float32 [B]."""
        if self.target is not None:
            return target_margins(self.scores, self.target).float()
        other = self.scores.scatter(1, label[:, None], -torch.inf).amax(1)
        return (self.scores.gather(1, label[:, None]).squeeze(1) - other).float()


@dataclass(frozen=True)
class Judge:
    """Judges the candidates of one evaluation. Tensors of samples come and go on the host."""

    run: Evaluation

    def membership(self, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return whether each candidate is within the threat, bool [B], and its distance, [B].

        Args:
            z: candidates, as the attack returned them: [B, C, H, W], or the parameters of a transformation [B, P].
            x: the images of the data set that they must lie around.
        """
        z, x = z.to(self.run.device), x.to(self.run.device)
        return self.run.threat.contains(z, x).cpu(), self.run.threat.distance(z, x).cpu()

    def verdict(
        self, z: Tensor, ids: Tensor, y: Tensor, target: Tensor | None = None, *, clean: bool = False
    ) -> Judged:
        """Return what the deployed pipeline says, with randomness of its own; z: one sample at least.

        clean: whether these are clean images, of which a rejection counts against the defense.
        target: of a targeted attack, int64 [B]; the prediction wherever its score is the largest.
        """
        rule, draws = self.run.rule, Rng(self.run.seed, ids.to(self.run.device), SELECT)
        if self.run.exact:
            return self._expected(z, draws, y)
        if rule is None:
            scores = self._scores(z, draws)
            accepts = self.run.victim.accepts
            acceptance = None if accepts is None else self._scores(z, draws, accepts).float()
            pred = self._classes(scores, y)
            if target is not None and scores.shape[-1] == self.run.classes:
                pred = torch.where(hits(scores, target), target, pred)
            return Judged(scores, pred, acceptance=acceptance, target=target)
        report = Rng(draws.seed, draws.ids, REPORT)
        chosen, mean, acceptance = self._drawn(z, draws, y, rule, clean)
        fresh, other, _ = self._drawn(z, report, y, rule, clean)
        mean = mean.masked_fill(~other.isfinite().all(1, keepdim=True), torch.nan)
        return Judged(mean, chosen.pred, chosen.share, fresh.wrong, acceptance=acceptance)

    def _drawn(
        self, z: Tensor, stream: Rng, y: Tensor, rule: Protocol, clean: bool
    ) -> tuple[DrawOutcome, Tensor, Tensor | None]:
        """Return the outcome of the draws of one stream, their mean scores, and the share that accepts, less half."""
        accepts, votes, given, total = self.run.victim.accepts, [], [], torch.zeros(())
        for k in range(rule.draws):
            draw = stream.stream(k)
            scores = self._scores(z, draw)
            votes.append(self._classes(scores, y))
            total = total + scores
            if accepts is not None:
                given.append(self._scores(z, draw, accepts))
        if not given:
            return rule.verdict(torch.stack(votes), y, scores.shape[1]), total / rule.draws, None
        accepted = torch.stack(given)
        outcome = rule.selective(torch.stack(votes), accepted >= 0, y, scores.shape[1], clean)
        share = (accepted >= 0).float().mean(0) - 0.5
        return outcome, total / rule.draws, share.masked_fill(~accepted.isfinite().all(0), torch.nan)

    def _expected(self, z: Tensor, draws: Rng, y: Tensor) -> Judged:
        """Return the same of a mixture, whose expectation over its members is exact."""
        members = self.run.victim.members
        scores = stacked({head.name: self._scores(z, draws, head.forward) for head in members})
        weights, votes = probabilities(members), self._classes(scores, y)
        verdict = expectation(votes, weights, y, scores.shape[2])
        mean = (weights[:, None, None].to(scores.dtype) * scores).sum(0)
        return Judged(mean, verdict.pred, verdict.share, verdict.wrong, bits(votes != y))

    def _classes(self, scores: Tensor, y: Tensor) -> Tensor:
        """Return the predicted classes; of scores for other classes, which are refused by name, any."""
        return decided(scores, y) if scores.shape[-1] == self.run.classes > 1 else scores.argmax(-1)

    @torch.no_grad()
    def _scores(self, z: Tensor, draws: Rng, forward: Forward | None = None) -> Tensor:
        """Return the scores of one prediction, on the host. forward: of a member, or the acceptance; None: the deployed
        one."""
        device = self.run.device
        parts = torch.arange(len(z)).split(self.run.batch_size)  # type: ignore[no-untyped-call]
        predict = forward or self.run.victim.predict
        return torch.cat([predict(z[at].to(device), draws.select(at.to(device))).cpu() for at in parts])
