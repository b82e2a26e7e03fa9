"""FAB: fast adaptive boundary attack."""

import math
from dataclasses import dataclass
from itertools import count
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from gauntlet.attacks.linearized_boundary import LinearizedBoundary, linearize_boundary, nearest_boundary
from gauntlet.attacks.losses import margin_hidden_by_rounding, margins, ranking
from gauntlet.attacks.minimum_norm.minimum_norm_loop import NearestExamples, arrived, refine
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.passes import MOST_ROUNDS, Guess, HostMask, doubtful, positions
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat


@dataclass(frozen=True)
class FAB(Knobs, key="attack"):
    """FAB (Croce and Hein 2020, arXiv 1907.02044) for linf, l2 and l1: steps along the decision boundary.

    Each step linearizes z_t - z_y for a target t, or for the t whose boundary is nearest, projects the point and the
    clean image onto the plane where it vanishes, inside the box, steps a little beyond the mixture of both, and comes
    back towards the image where that fools the victim. A
    sample leaves as soon as a candidate within eps fools the victim. Where the threat is unbounded it walks to every
    target to the end, and its nearest adversarial example, refined with ten forwards, is the answer.

    Args:
        steps: per target, >= 1.
        targets: the best other classes of the clean image to walk to, each in turn; 0: in each step to the nearest
            boundary of all classes, at the price of a backward pass for each; under a targeted goal, to that of the
            target, at the price of one.
        restarts: walks to each target, >= 1; those after the first begin at a random point half as far as eps allows,
            and there are none where the threat is unbounded.
        overshoot: eta, how far beyond the plane, > 0.
        pull: beta, share of the perturbation that is kept on the way back, in (0, 1).
        bias: alpha_max, the largest weight of the clean image, in [0, 1].

    Raises:
        UserError: a value outside its range.
    """

    needs: ClassVar[str] = "gradient"
    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1")
    unbounded: ClassVar[bool] = True
    asks: ClassVar[bool] = True  # keeps what fools the victim, and nothing else

    steps: int = knob(100, least=1)
    targets: int = knob(9, least=0)
    restarts: int = knob(1, least=1)
    overshoot: float = knob(1.05, above=0)
    pull: float = knob(0.9, above=0, below=1)
    bias: float = knob(0.1, least=0, most=1)

    def __call__(self, head: CountedHead, x: Tensor, y: Tensor, *, threat: Threat, rng: Rng) -> Tensor:
        """Return candidates z like x [B, C, H, W], the image itself where nothing was found; y: int64 [B]."""
        best, alive = NearestExamples.start(x), np.arange(len(x))
        if not len(x):
            return best.z
        order = ranking(head.scores(x, rng.stream("targets")), y) if self.targets else None
        for rank in range(1 if order is None else min(self.targets, order.shape[1])):
            for restart in range(1 if threat.unbounded else self.restarts):
                if len(alive):
                    (index,) = positions(x.device, alive)
                    below = rng.select(index).stream(rank).stream(restart)
                    target = None if order is None else order[:, rank]
                    done = self._run(head, x, y, target, best, index, threat, below, restart > 0)
                    alive = alive[~done]
        if threat.unbounded:
            refine(head, x, y, best, threat=threat, rng=rng.stream("refine"))
        return best.z

    def _run(
        self,
        head: CountedHead,
        x: Tensor,
        y: Tensor,
        target: Tensor | None,
        best: NearestExamples,
        index: Tensor,
        threat: Threat,
        rng: Rng,
        astray: bool,
    ) -> HostMask:
        """Walk the samples at `index` to their target; enter what is found, return which were, bool like index.

        astray: begin at a random point.
        """
        done, place, rounds = np.zeros(len(index), dtype=bool), np.arange(len(index)), Guess(6, MOST_ROUNDS, spare=0.5)
        x, y, threat = x[index], y[index], threat.select(index)
        target = None if target is None else target[index]
        far = 2 * x[0].numel() * (threat.high - threat.low)  # no two images lie so far apart
        point = (x + threat.edge(x, rng.stream("start"))) / 2 if astray else x
        for number in range(self.steps):
            draw = rng.stream(number)
            point = self._step(head, point, x, y, target, threat, draw, rounds)
            logits = head.scores(point, draw)
            margin = margins(logits, y)
            # A tie that only an offset of the logits makes is no end, but better than nothing.
            tie = (margin == 0) & (margin_hidden_by_rounding(logits) > 0)
            wrong, _, tied, near = head.fallen(point, y, draw, margin, tie, arrived(point, x, threat), plain=True)
            broken = wrong & ~tied if head.head.exact else wrong
            rows = (broken if threat.unbounded else wrong & near).nonzero()[0]
            inside = wrong & near & broken
            at, stay, back = positions(x.device, rows, (~inside).nonzero()[0], broken[~inside].nonzero()[0])
            if len(rows):
                away = threat.select(at).distance(point[at], x[at])
                away += far * torch.from_numpy(~broken[rows]).to(away, non_blocking=True)
                best.note(index[at], point[at], away, torch.ones_like(at, dtype=torch.bool))
            if inside.any():
                done[place[inside]], place = True, place[~inside]
                if not len(stay):
                    break
                index, point, x, y = (t[stay] for t in (index, point, x, y))
                target = None if target is None else target[stay]
                threat, rng = threat.select(stay), rng.select(stay)
            if len(back):
                near_image = x[back] + self.pull * (point[back] - x[back])
                point = point.index_copy(0, back, near_image)
        return done

    def _step(
        self,
        head: CountedHead,
        point: Tensor,
        x: Tensor,
        y: Tensor,
        target: Tensor | None,
        threat: Threat,
        rng: Rng,
        rounds: Guess,
    ) -> Tensor:
        """Return the points after a step, of one gradient or one for each class."""
        if target is None:
            boundary = nearest_boundary(head, point, y, threat.norm, rng)
        else:
            boundary = linearize_boundary(head, point, y, target, rng)
        ahead, taken = self._ahead(point, x, boundary, threat, rounds.value)
        sums, taken_there = head.passes.read(boundary.sums, taken)
        enough = rounds.enough(taken_there)
        if doubtful(sums).any():
            boundary = boundary._replace(gradient=head.settled(boundary.gradient, rng))
        elif enough:
            return ahead
        return self._ahead(point, x, boundary, threat, None)[0]

    def _ahead(
        self, point: Tensor, x: Tensor, boundary: LinearizedBoundary, threat: Threat, rounds: int | None
    ) -> tuple[Tensor, Tensor]:
        """Return the point a little beyond the mixture of the projections of point and image, and the rounds that these
        take, as `reach` does."""
        gap, gradient, _ = boundary
        offset = (gradient * (point - x)).flatten(1).sum(1)
        from_point, taken = reach(point, gradient, -gap, threat, rounds)
        from_image, more = reach(x, gradient, offset - gap, threat, rounds)
        order = {"linf": math.inf, "l2": 2, "l1": 1}[threat.norm]
        one, two = (torch.linalg.vector_norm(d.flatten(1), order, dim=1) for d in (from_point, from_image))
        share = (one / (one + two).clamp_min(1e-12)).clamp(0, self.bias).reshape(-1, 1, 1, 1)
        mixed = torch.lerp(point + self.overshoot * from_point, x + self.overshoot * from_image, share)
        return mixed.clamp_(threat.low, threat.high), taken.maximum(more)


def reach(
    x: Tensor, gradient: Tensor, amount: Tensor, threat: Threat, rounds: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the least move d with <gradient, d> = amount that keeps x + d in the box; as far as the box allows where
    none does.

    Args:
        x, gradient: [B, C, H, W].
        amount: [B].
        rounds: of Newton's method, which read nothing; None: until all moves are found.

    Returns:
        d like x, least in the norm of the threat, of which it is the exact projection on a plane inside the box, and
        how many rounds it takes, [B]: where these are more than were made, it is not found.
    """
    peak = gradient.flatten(1).abs().amax(1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    weight, need = gradient.flatten(1) / peak, amount.abs().to(x.dtype)[:, None] / peak
    helps = amount.sign().to(x.dtype)[:, None] * weight.sign()
    start, size = x.flatten(1), weight.abs()
    room = torch.where(helps > 0, threat.high - start, start - threat.low) * (size > 0)
    if threat.norm == "l1":
        move, taken = _greedy(size, room, need), torch.ones_like(need)
    else:
        move, taken = _level(size, room, torch.ones_like(size) if threat.norm == "linf" else size, need, rounds)
    return (helps * move).reshape(x.shape), taken.squeeze(1)


def _level(size: Tensor, room: Tensor, pace: Tensor, need: Tensor, rounds: int | None) -> tuple[Tensor, Tensor]:
    """Return min(t pace, room) for the t at which the gain, the sum of size times that, is `need`, and the rounds that
    it takes; [B, d], need [B, 1].

    The gain is concave and piecewise linear in t, so Newton's method climbs to the answer from the left in finitely
    many steps, mostly four or five, where sorting the kinks costs many times as much. More steps change nothing.
    """
    close = need * (1 - 16 * torch.finfo(size.dtype).eps)
    beyond = (size * room).sum(1, keepdim=True) <= need
    speed, t, taken, piece = size * pace, torch.zeros_like(need), torch.ones_like(need), torch.empty_like(size)
    done = beyond | (need == 0)
    for _ in range(rounds) if rounds else count():
        if rounds is None and done.all():
            break
        ahead = t * pace
        gain = torch.minimum(ahead, room, out=piece).mul_(size).sum(1, keepdim=True)
        rate = torch.lt(ahead, room, out=piece).mul_(speed).sum(1, keepdim=True)
        done |= gain >= close
        taken += ~done
        step = (need - gain) / rate.clamp_min(1e-30)
        t = torch.where(done, t, (t + step).clamp_max(1e30))
    return torch.where(beyond, room, (t * pace).minimum(room)), taken


def _greedy(size: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """Move the entries of largest size to their box, one after the other, until the gain is `need`."""
    ordered, order = size.sort(dim=1, descending=True)
    room = room.gather(1, order)
    gain = ordered * room
    before = gain.cumsum(1) - gain
    move = ((need - before).clamp_min(0) / ordered.clamp_min(1e-30)).minimum(room)
    return torch.zeros_like(move).scatter(1, order, move)
