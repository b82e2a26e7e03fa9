"""Certificates for ReLU networks by branch and bound, and counterexamples where it meets some."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gauntlet.certification.crown.branch_and_bound import Budget, Falls, SearchOutcome, problem_of, search
from gauntlet.certification.crown.curves import Curve
from gauntlet.certification.crown.deadline import Deadline
from gauntlet.certification.crown.ibp import Ranges
from gauntlet.certification.crown.input_region import Region, legal
from gauntlet.certification.crown.joint import Joint
from gauntlet.certification.crown.layer_tightening import closer
from gauntlet.certification.crown.margin_bounds import Effort, Network, comparisons, prove
from gauntlet.certification.crown.split_bounds import Problem
from gauntlet.certification.descents import Descents
from gauntlet.certification.linear_bounds import Claim, LinearBounds, Margins, ProofTask
from gauntlet.errors import UserError
from gauntlet.knobs import knob
from gauntlet.threat_model.decision import decided
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Victim

HARD = ((1, 4), (20, 12))
"""Multiples of `easy` after which the layers of an image are bounded anew, and splits for each open ReLU input then."""

DEARER, SHARE = 2.5, 0.5
"""How many times the time of the first of these boundings the second takes, as measured, and the largest share of the
time that is left when it would begin for which it is worth it."""


@dataclass(frozen=True)
class BranchAndBound(LinearBounds):
    """`LinearBounds`, and for what these leave open a search that splits the ball by the signs of ReLU inputs.

    On each part the sign of some inputs is fixed: these ReLUs are linear there, and what their sign says enters the
    bounds with multipliers (beta-CROWN; Wang et al. 2021, arXiv 2103.06624). The part with the lowest bound is split
    first. An image is proven when all parts are. The point at which the bound of a part is least is put before the
    deployed defense, and of a hard image where descents by gradients end: a legal one with another class ends the
    search as `broken`.

    The word `stop` of a record says what ended the search: proven, broken, budget, time, or exhausted where a part
    without an open sign is bounded no better; it is empty where no search was needed. `margin` is the least proven
    bound over all parts, which only grows with the budget; a part that is proven is bounded no further. With `seconds`,
    which image is proven depends on the machine: one that is not is open by `time`.

    Args:
        method, steps, memory: as of `LinearBounds`, for what is tried before.
        domains: parts of the ball that are bounded for one image at most, >= 1.
        easy: of these, parts after which an image is hard: the bounds of its layers are tightened, and the search
            begins anew, >= 1; once more, with more splits below each ReLU, after twenty times as many, unless more than
            half of the time that is left then would go into it.
        inner_steps: gradient steps for the slopes below each open ReLU of a hard image, >= 0; 0: none is.
        split_steps: gradient steps for the slopes and multipliers of each part, >= 0.
        candidates: ReLUs that are tried for each split, >= 1.
        together: parts that are split at once, >= 1; changes which are split.
        seconds: of processor time for one image, >= 0, after which nothing is begun; 0: only `domains` counts.

    Raises:
        UserError: a value outside its range.
    """

    method: str = "alpha_crown"
    inner_steps: int = 10
    domains: int = knob(4000, least=1)
    easy: int = knob(500, least=1)
    split_steps: int = knob(5, least=0)
    candidates: int = knob(3, least=1)
    together: int = knob(64, least=1)
    seconds: float = knob(0.0, least=0)

    @property
    def name(self) -> str:
        return "branch_and_bound"

    def _claim(self, victim: Victim, x: Tensor, rng: Rng) -> Claim:
        claim = super()._claim(victim, x, rng)
        for node in claim.graph.nodes:
            if isinstance(node.op, Curve | Joint):
                raise UserError(
                    f"certifier={self.name} splits by the signs of ReLUs, and layer {node.name} is a {node.op.name}; "
                    "take certifier=crown"
                )
        return claim

    def _margins(self, network: Network, claim: Claim, asked: ProofTask) -> Margins:
        """One image at a time, so that no rounding depends on the others."""
        margins = torch.empty(len(asked.y), dtype=torch.float64, device=asked.y.device)
        stop: dict[int, str] = {}
        examples: dict[int, Tensor] = {}
        for i in range(len(asked.y)):
            one = asked.select(torch.tensor([i], device=asked.y.device))
            region, deadline = legal(one.threat, one.x), Deadline.after(self.seconds)
            proof = prove(network, region, one.y, Effort(self.method, self.steps, 0, self.memory, claim.least))
            bounds = proof.margins[0]
            if len(proof.open):
                found = self._searched(Opened(network, region, proof.ranges, one), bounds, claim.least, deadline)
                bounds, stop[i] = found.bounds, found.why
                if found.example is not None:
                    examples[i] = found.example
            margins[i] = claim.margin(bounds[None])
        return Margins(margins, stop, examples)

    def _searched(self, opened: "Opened", bounds: Tensor, least: float, deadline: Deadline) -> SearchOutcome:
        """Return what becomes of an image whose functions have these proven bounds [K - 1]."""
        network, region, ranges, task = opened.network, opened.region, opened.ranges, opened.task
        rows, done, descended = comparisons(task.y, network.exact.classes)[0], 0, False
        hard = [
            (self.easy * parts, splits)
            for parts, splits in HARD
            if self.inner_steps and self.easy * parts < self.domains
        ]
        while True:
            end, splits = hard.pop(0) if hard else (self.domains, 0)
            (functions,) = (bounds <= least).nonzero(as_tuple=True)
            problem, begun = problem_of(network, region, ranges, rows[functions]), deadline.left
            budget = Budget(end - done, self.split_steps, self.candidates, self.together, deadline)
            found = search(problem, bounds[functions], least, budget, fall(task))
            bounds, done = bounds.index_copy(0, functions, found.bounds), done + found.domains
            if end == self.domains or found.why != "budget":
                return replace(found, bounds=bounds, domains=done)
            searched = deadline.left
            if not descended and (example := _descended(opened, problem, deadline)) is not None:
                return SearchOutcome(bounds, "broken", done, example)
            descended, idle = True, deadline.left
            ranges = closer(problem, self.inner_steps, splits, self.memory, deadline)
            if hard and self.seconds:
                ahead = (begun - searched) * (hard[0][0] - done) / found.domains  # until the next bounding would begin
                if DEARER * (idle - deadline.left) > SHARE * (deadline.left - ahead):
                    hard.clear()


@dataclass(frozen=True)
class Opened:
    """An image that linear bounds leave open, and the bounds of its layers."""

    network: Network
    region: Region
    ranges: Ranges
    task: ProofTask


def _descended(opened: Opened, problem: Problem, deadline: Deadline) -> Tensor | None:
    """Return an image that breaks one for which no bounds were enough, or None."""
    task, rows = opened.task, problem.rows.float()
    descents = Descents(opened.network.quick, rows, task.threat, task.x.float(), task.rng, deadline)
    return descents.found(fall(task))


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
