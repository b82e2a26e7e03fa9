"""Certificates for ReLU networks by branch and bound, and counterexamples where it meets some."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gauntlet.certification.crown.branch_and_bound import Budget, Falls, problem_of, search
from gauntlet.certification.crown.input_region import legal
from gauntlet.certification.crown.margin_bounds import Effort, Network, comparisons, prove
from gauntlet.certification.linear_bounds import Claim, LinearBounds, Margins, ProofTask
from gauntlet.knobs import knob
from gauntlet.threat_model.decision import decided


@dataclass(frozen=True)
class BranchAndBound(LinearBounds):
    """`LinearBounds`, and for what these leave open a search that splits the ball by the signs of ReLU inputs.

    On each part the sign of some inputs is fixed: these ReLUs are linear there, and what their sign says enters the
    bounds with multipliers (beta-CROWN; Wang et al. 2021, arXiv 2103.06624). The part with the lowest bound is split
    first. An image is proven when all parts are. The point at which the bound of a part is least is put before the
    deployed defense: a legal one with another class ends the search as `broken`.

    The word `stop` of a record says what ended the search: proven, broken, budget, time, or exhausted where a part
    without an open sign is bounded no better; it is empty where no search was needed. `margin` is the least proven
    bound over all parts, which only grows with the budget; a part that is proven is bounded no further. With `seconds`,
    which image is proven depends on the machine: one that is not is open by `time`.

    Args:
        method, steps, inner_steps, memory: as of `LinearBounds`, for what is tried before.
        domains: parts of the ball that are bounded for one image at most, >= 1.
        split_steps: gradient steps for the slopes and multipliers of each part, >= 0.
        candidates: ReLUs that are tried for each split, >= 1.
        together: parts that are split at once, >= 1; changes which are split.
        seconds: of processor time for one image, >= 0; 0: only `domains` counts.

    Raises:
        UserError: a value outside its range.
    """

    method: str = "alpha_crown"
    domains: int = knob(4000, least=1)
    split_steps: int = knob(10, least=0)
    candidates: int = knob(3, least=1)
    together: int = knob(16, least=1)
    seconds: float = knob(0.0, least=0)

    @property
    def name(self) -> str:
        return "branch_and_bound"

    def _margins(self, network: Network, claim: Claim, asked: ProofTask) -> Margins:
        """One image at a time, so that no rounding depends on the others."""
        effort = Effort(self.method, self.steps, self.inner_steps, self.memory, claim.least)
        budget = Budget(self.domains, self.split_steps, self.candidates, self.together, self.seconds)
        margins = torch.empty(len(asked.y), dtype=torch.float64, device=asked.y.device)
        stop: dict[int, str] = {}
        examples: dict[int, Tensor] = {}
        for i in range(len(asked.y)):
            one = asked.select(torch.tensor([i], device=asked.y.device))
            region = legal(one.threat, one.x)
            proof = prove(network, region, one.y, effort)
            if len(proof.open):
                (functions,) = (proof.margins[0] <= claim.least).nonzero(as_tuple=True)
                rows = comparisons(one.y, network.exact.classes)[0, functions]
                problem = problem_of(network, region, proof.ranges, rows)
                found = search(problem, proof.margins[0, functions], claim.least, budget, fall(one))
                proof.margins[0, functions] = found.bounds
                stop[i] = found.why
                if found.example is not None:
                    examples[i] = found.example
            margins[i] = claim.margin(proof.margins)
        return Margins(margins, stop, examples)


def fall(ball: ProofTask) -> Falls:
    """Return what tells which images the deployed defense gives another class: legal float32 ones near those asked."""

    def falls(points: Tensor) -> Tensor | None:
        x = ball.x.expand(len(points), *ball.x.shape[1:])
        threat, rng = ball.threat, ball.rng.select(torch.zeros(len(points), dtype=torch.int64, device=x.device))
        if threat.factors is not None:
            threat = threat.select(torch.zeros(len(points), dtype=torch.int64, device=x.device))
        z = threat.project(points.to(x.dtype), x)
        wrong = decided(ball.victim.predict(z, rng), ball.y.expand(len(z))) != ball.y
        found = (wrong & threat.contains(z, x)).nonzero().squeeze(1)
        return z[found[0]] if len(found) else None

    return falls
