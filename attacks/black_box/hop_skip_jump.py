"""HopSkipJump: steps along the decision boundary with decisions alone."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gauntlet.attacks.black_box.boundary_margin import with_boundary_margin
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.access import DecisionHead
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat

SEEK, BLEND, BISECT, ESTIMATE, JUMP = range(5)
"""Phases: look for noise that fools the victim; bisect from it to the image; bisect from a point to the decision
boundary; ask about small random moves; go along the normal, half as far each time until the victim is fooled."""


BLENDED = 1e-3
"""Share of the noise at which its bisection ends."""


FIRST_MOVE = 0.1
"""Length of the random moves of the first turn, in units of the box."""


@dataclass(frozen=True)
class HopSkipJumpSchedule:
    """How far and how often: constants of the schedule.

    Args:
        narrow: width at which a bisection to the boundary ends, as a share of its length.
        move: length of the random moves, in units of the distance of the point that was bisected from.
        draws, most: random moves of the first turn, and of any.
    """

    narrow: float
    move: float
    draws: int
    most: int

    @classmethod
    def of(cls, threat: Threat, size: int, draws: int, most: int, gamma: float) -> "HopSkipJumpSchedule":
        """Return the constants of the paper for images of `size` entries."""
        narrow = gamma / size ** (1.5 if threat.norm == "l2" else 2)
        return cls(narrow, narrow * (math.sqrt(size) if threat.norm == "l2" else size), draws, most)

    def wanted(self, turn: Tensor) -> Tensor:
        """Return the number of random moves of a turn, int64 like turn."""
        return (self.draws * turn.double().sqrt()).long().clamp_max(self.most)


class HopSkipJumpState:
    """The state of a batch; every tensor has one row for each sample."""

    def __init__(self, x: Tensor, threat: Threat, schedule: HopSkipJumpSchedule) -> None:
        self.threat, self.schedule = threat, schedule
        zeros = torch.zeros(len(x), device=x.device, dtype=torch.float64)
        self.x = x
        self.phase, self.turn, self.made, self.hits = (zeros.long() for _ in range(4))
        self.low, self.high, self.narrow = (
            zeros.clone() for _ in range(3)
        )  # of a bisection: not fooled, fooled, width
        self.move, self.jump = zeros.clone(), zeros.clone()  # lengths of the random moves, and of the next jump
        self.far = x.clone()  # fools the victim: a bisection begins there
        self.edge = x.clone()  # fools it too, at the boundary
        self.direction = torch.zeros_like(x)  # the normal
        self.sum, self.signed = torch.zeros_like(x), torch.zeros_like(x)  # of the random moves, and of those times +-1

    def select(self, index: Tensor) -> None:
        """Go on with some of the samples; index: positions int64 [b]."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value[index])

    def next_query(self, rng: Rng) -> Tensor:
        """Return one candidate for each sample, like x."""
        z = torch.empty_like(self.x)
        middles = (self.phase == BLEND) | (self.phase == BISECT)
        for rows, ask in (
            (self.phase == SEEK, self._noise), (middles, self._middle), (self.phase == ESTIMATE, self._around),
            (self.phase == JUMP, self._ahead),
        ):  # fmt: skip
            at = rows.nonzero().squeeze(1)
            if len(at):
                z[at] = ask(at, rng.select(at)).clamp(self.threat.low, self.threat.high)
        return z

    def record_answer(self, z: Tensor, broken: Tensor) -> None:
        """Enter which of these candidates fooled the victim, bool [B]."""
        enter = {
            SEEK: self._sought,
            BLEND: self._halved,
            BISECT: self._halved,
            ESTIMATE: self._estimated,
            JUMP: self._jumped,
        }
        rows = {phase: (self.phase == phase).nonzero().squeeze(1) for phase in enter}  # before any of them moves on
        for phase, at in rows.items():
            if len(at):
                enter[phase](at, z[at], broken[at])

    def _noise(self, at: Tensor, rng: Rng) -> Tensor:
        shape = tuple(self.x.shape[1:])
        return rng.stream("noise").uniform(shape, self.threat.low, self.threat.high, dtype=self.x.dtype)

    def _sought(self, at: Tensor, z: Tensor, broken: Tensor) -> None:
        at = at[broken]
        self.far[at], self.high[at], self.narrow[at], self.phase[at] = z[broken], 1.0, BLENDED, BLEND

    def _middle(self, at: Tensor, rng: Rng) -> Tensor:
        return self._between(at, (self.low[at] + self.high[at]) / 2)

    def _between(self, at: Tensor, place: Tensor) -> Tensor:
        """From the image towards `far`: along the line, or (linf, at the boundary) inside the cube of that radius."""
        x, far, place = self.x[at], self.far[at], _wide(place, self.x)
        line = (x + place * (far - x)).clamp(self.threat.low, self.threat.high)
        if self.threat.norm == "l2":
            return line
        return torch.where(_wide(self.phase[at] == BLEND), line, far.clamp(x - place, x + place))

    def _halved(self, at: Tensor, z: Tensor, broken: Tensor) -> None:
        middle = (self.low[at] + self.high[at]) / 2
        self.high[at] = torch.where(broken, middle, self.high[at])
        self.low[at] = torch.where(broken, self.low[at], middle)
        at = at[self.high[at] - self.low[at] <= self.narrow[at]]
        ends = self._between(at, self.high[at])
        blends = self.phase[at] == BLEND
        self._bisect(at[blends], ends[blends])
        self._begin_estimate(at[~blends], ends[~blends])

    def _bisect(self, at: Tensor, far: Tensor) -> None:
        """Begin a turn: go from these points to the boundary."""
        self.far[at], self.phase[at], self.low[at] = far, BISECT, 0.0
        self.turn[at] += 1
        distance = self.threat.distance(far, self.x[at])
        self.high[at] = torch.ones_like(distance) if self.threat.norm == "l2" else distance
        self.narrow[at] = self.schedule.narrow * self.high[at]
        first = FIRST_MOVE * (self.threat.high - self.threat.low)
        self.move[at] = torch.where(self.turn[at] == 1, first, self.schedule.move * distance)

    def _begin_estimate(self, at: Tensor, edge: Tensor) -> None:
        self.edge[at], self.phase[at] = edge, ESTIMATE
        self.made[at], self.hits[at], self.sum[at], self.signed[at] = 0, 0, 0.0, 0.0

    def _around(self, at: Tensor, rng: Rng) -> Tensor:
        direction = _directions(rng.stream("move"), self.edge[at], self.threat.norm == "l2")
        return self.edge[at] + _wide(self.move[at], direction) * direction

    def _estimated(self, at: Tensor, z: Tensor, broken: Tensor) -> None:
        direction = z - self.edge[at]
        self.sum[at] += direction
        self.signed[at] += torch.where(_wide(broken), direction, -direction)
        self.made[at] += 1
        self.hits[at] += broken.long()
        at = at[self.made[at] >= self.schedule.wanted(self.turn[at])]
        if len(at):
            mean = 2 * self.hits[at] / self.made[at] - 1
            alike = mean.abs() == 1  # then the baseline would leave nothing
            self.direction[at] = self.threat.steepest(
                self.signed[at] - _wide(torch.where(alike, 0.0, mean), z) * self.sum[at]
            )
            self.jump[at] = self.threat.distance(self.edge[at], self.x[at]) / self.turn[at].double().sqrt()
            self.phase[at] = JUMP

    def _ahead(self, at: Tensor, rng: Rng) -> Tensor:
        return self.edge[at] + _wide(self.jump[at], self.x) * self.direction[at]

    def _jumped(self, at: Tensor, z: Tensor, broken: Tensor) -> None:
        self._bisect(at[broken], z[broken])
        self.jump[at[~broken]] /= 2


def _directions(rng: Rng, like: Tensor, normal: bool) -> Tensor:
    """Return random directions of Euclidean length one, of the shape of `like`: entries normal, or uniform in [-1, 1].

    Entries take 256 values, at the middle of as many equal shares: one random word makes four of them.
    """
    size = like[0].numel()
    shares = (torch.arange(256, device=like.device, dtype=torch.float64) + 0.5) / 256
    values = (torch.special.ndtri(shares) if normal else 2 * shares - 1).to(like.dtype)
    words = rng.bits((-(-size // 4),))
    octets = torch.stack([(words >> shift) & 255 for shift in (0, 8, 16, 24)], 2).flatten(1)[:, :size]
    direction = values[octets]
    length: Tensor = torch.linalg.vector_norm(direction, dim=1, keepdim=True)
    return (direction / length).reshape(like.shape)


def _wide(values: Tensor, like: Tensor | None = None) -> Tensor:
    """Return the values [B] as [B, 1, 1, 1], in the dtype of `like`."""
    return (values if like is None else values.to(like.dtype)).reshape(-1, 1, 1, 1)


@dataclass(frozen=True)
class HopSkipJump(Knobs, key="attack"):
    """HopSkipJump (Chen, Jordan and Wainwright 2020, arXiv 1904.02144) for linf and l2: one query a step.

    Starts from uniform noise that fools the victim, blended with the image as far as that holds. Then in turns: bisect
    to the decision boundary, guess its normal from the answers to small random moves, go along it as far as the victim
    stays fooled. In a run with a finite eps a sample leaves as soon as any of its queries within eps fools the victim;
    where the threat is unbounded it goes on to the end, and the answer is the nearest adversarial example.

    Args:
        queries: for each sample, >= 1, the search for a start included.
        draws: random moves of the first turn, >= 1; turn t makes sqrt(t) times as many.
        most: random moves of any turn, >= 1.
        gamma: width of the bisection, > 0, in units of d^-1.5 (l2) or d^-2 (linf) for images of d entries.

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[str] = "decision"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2")
    unbounded: ClassVar[bool] = True

    queries: int = knob(10000, least=1)
    draws: int = knob(100, least=1)
    most: int = knob(10000, least=1)
    gamma: float = knob(1.0, above=0)

    def __call__(self, head: DecisionHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return candidates z like x [B, C, H, W], the image itself where nothing was found; y: int64 [B]."""
        candidates, index = x.clone(), torch.arange(len(x), device=x.device)
        if not len(x):
            return candidates
        state = HopSkipJumpState(
            x, threat, HopSkipJumpSchedule.of(threat, x[0].numel(), self.draws, self.most, self.gamma)
        )
        best = torch.full((len(x),), math.inf, device=x.device, dtype=torch.float64)
        for query in range(self.queries - threat.unbounded):
            draw = rng.stream(query)
            z = state.next_query(draw)
            broken = head.broken(z, y, draw)
            state.record_answer(z, broken)
            if threat.unbounded:
                distance = torch.where(broken, threat.distance(z, x), math.inf)
                nearer = distance < best
                candidates[nearer], best = z[nearer], distance.minimum(best)
                continue
            near = broken.clone()
            near[broken] = threat.select(broken).contains(z[broken], x[broken])
            if near.any():
                candidates[index[near]] = z[near]
                stay = (~near).nonzero().squeeze(1)
                if not len(stay):
                    return candidates
                state.select(stay)
                x, y, index, threat, rng = x[stay], y[stay], index[stay], threat.select(stay), rng.select(stay)
        return (
            with_boundary_margin(head, x, y, candidates, threat, rng.stream(self.queries))
            if threat.unbounded
            else candidates
        )
