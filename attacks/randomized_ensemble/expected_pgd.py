"""Projected gradient descent on a smooth stand-in for the expected error of a mixture."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import logsigmoid

from gauntlet.attacks.log_scaled_gradient import LogScaledGradient, weighted_sum
from gauntlet.attacks.losses import ce, margin, margins, scored
from gauntlet.attacks.projected_ascent import PerturbationSet
from gauntlet.attacks.randomized_ensemble.expected_error import Mixture, WorstExpectedError
from gauntlet.knobs import Knobs, choice, knob
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat


@dataclass(frozen=True)
class ExpectedPGD(Knobs, key="attack"):
    """Projected gradient descent on all members of a mixture (Madry et al. 2018, arXiv 1706.06083), judged at every
    step by the exact expected error; the worst candidate is kept. On a defense that is no mixture each head is its only
    member.

    Args:
        steps: per restart, >= 1.
        step_size: first step as a multiple of eps, > 0; it falls to zero linearly.
        loss: error: the sum of a_i sigmoid(m_i), where m_i is the best other logit of member i less the true one.
            softmax: cross-entropy of the sum of a_i softmax(f_i), the usual attack, which can stall between the
            members (Dbouk and Shanbhag 2022, arXiv 2206.06737).
        restarts: >= 1; only survivors are attacked again.
        random_start: begin at a random point of the ball, else at the image.

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[str] = "gradient"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    mixture: ClassVar[bool] = True

    steps: int = knob(40, least=1)
    step_size: float = knob(0.25, above=0)
    loss: str = choice("error", ("error", "softmax"))
    restarts: int = knob(1, least=1)
    random_start: bool = True

    def __call__(self, head: CountedHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return candidates z of the shape of x [B, C, H, W]; y: labels int64 [B]."""
        mixture = Mixture.of(head, x)
        if not len(x):
            return x.clone()
        best = WorstExpectedError.start(x, mixture.evaluate(x, y, rng.stream("start")))
        for restart in range(self.restarts):
            index = best.open()
            if len(index):
                below = rng.select(index).stream(restart)
                self._run(mixture, x[index], y[index], threat.select(index), below, best, index)
        return best.z

    def _run(
        self, mixture: Mixture, x: Tensor, y: Tensor, threat: Threat, rng: Rng, best: WorstExpectedError, index: Tensor
    ) -> None:
        z = threat.random(x, rng.stream("start")) if self.random_start else x
        region = PerturbationSet.around(threat, x)
        for number in range(self.steps):
            draw = rng.stream(number)
            gradient = self._gradient(mixture, z, y, draw)
            z = region.step(z, gradient, self.step_size * (1 - number / self.steps))
            result = mixture.evaluate(z, y, draw.stream("looked"))
            best.note(index, z, result)
            stay = (~result.done).nonzero().squeeze(1)
            if not len(stay):
                return
            if len(stay) < len(index):
                z, y, index = z[stay], y[stay], index[stay]
                region, rng = region.select(stay), rng.select(stay)

    def _gradient(self, mixture: Mixture, z: Tensor, y: Tensor, rng: Rng) -> Tensor:
        """Return the gradient of the loss, up to a positive factor for each sample: nothing underflows, however sure
        the members are.
        """
        gradients = []
        for member, weight in zip(mixture.members, mixture.weights, strict=True):
            logits, pull = member.linearize(z, rng.stream(member.head.name))
            if self.loss == "error":
                lead = -margins(logits, y)  # d sigmoid(m) = sigmoid(m) sigmoid(-m) dm
                gradient = LogScaledGradient(pull(margin(logits, y)), logsigmoid(lead) + logsigmoid(-lead))
            else:  # d log sum a p = sum (a p / sum a p) d log p, and d log p_y has the length 1 - p_y
                behind = scored("ce").value(logits, y)
                gradient = LogScaledGradient(pull(ce(logits, y)), logsigmoid(-behind) + logsigmoid(behind))
            gradients.append(
                (1.0, LogScaledGradient(gradient.direction, gradient.log_scale + weight.log().to(gradient.log_scale)))
            )
        return weighted_sum(*gradients).direction
