"""FAB: fast adaptive boundary attack."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gauntlet.attacks.linearized_boundary import LinearizedBoundary, linearize_boundary, nearest_boundary
from gauntlet.attacks.losses import margin_hidden_by_rounding, margins, ranking
from gauntlet.attacks.minimum_norm.minimum_norm_loop import NearestExamples, arrived, refine
from gauntlet.knobs import Knobs, knob
from gauntlet.threat_model.counted_head import CountedHead
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
        best, alive = NearestExamples.start(x), torch.arange(len(x), device=x.device)
        if not len(x):
            return best.z
        order = ranking(head.scores(x, rng.stream("targets")), y) if self.targets else None
        for rank in range(1 if order is None else min(self.targets, order.shape[1])):
            for restart in range(1 if threat.unbounded else self.restarts):
                if len(alive):
                    below = rng.select(alive).stream(rank).stream(restart)
                    target = None if order is None else order[:, rank]
                    done = self._run(head, x, y, target, best, alive, threat, below, restart > 0)
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
        alive: Tensor,
        threat: Threat,
        rng: Rng,
        astray: bool,
    ) -> Tensor:
        """Walk the samples at `alive` to their target; enter what is found, return which were, bool like alive.

        astray: begin at a random point.
        """
        done = torch.zeros(len(alive), dtype=torch.bool, device=x.device)
        place = torch.arange(len(alive), device=x.device)
        x, y, threat = x[alive], y[alive], threat.select(alive)
        target = None if target is None else target[alive]
        far = 2 * x[0].numel() * (threat.high - threat.low)  # no two images lie so far apart
        point = (x + threat.edge(x, rng.stream("start"))) / 2 if astray else x
        for number in range(self.steps):
            draw = rng.stream(number)
            if target is None:
                boundary = nearest_boundary(head, point, y, threat.norm, draw)
            else:
                boundary = linearize_boundary(head, point, y, target, draw)
            point = self._ahead(point, x, boundary, threat)
            logits = head.scores(point, draw)
            wrong = head.broken(point, logits, y, draw, plain=True)
            inside = wrong.clone()
            inside[wrong] = arrived(point[wrong], x[wrong], threat.select(wrong))
            # A tie that only an offset of the logits makes is no end, but better than nothing.
            tie = (margins(logits, y) == 0) & (margin_hidden_by_rounding(logits) > 0)
            broken = wrong & ~tie if head.head.exact else wrong
            noted = broken if threat.unbounded else inside
            if noted.any():
                near = threat.distance(point[noted], x[noted])
                near[~broken[noted]] += far
                best.note(alive[place[noted]], point[noted], near, torch.ones_like(noted[noted]))
            inside &= broken
            if inside.any():
                done[place[inside]] = True
                stay = (~inside).nonzero().squeeze(1)
                if not len(stay):
                    break
                place, point, x, y, broken = (t[stay] for t in (place, point, x, y, broken))
                target = None if target is None else target[stay]
                threat, rng = threat.select(stay), rng.select(stay)
            point = torch.where(broken.reshape(-1, 1, 1, 1), x + self.pull * (point - x), point)
        return done

    def _ahead(self, point: Tensor, x: Tensor, boundary: LinearizedBoundary, threat: Threat) -> Tensor:
        """Return the point a little beyond the mixture of the projections of point and image."""
        gap, gradient = boundary
        offset = (gradient * (point - x)).flatten(1).sum(1)
        from_point, from_image = reach(point, gradient, -gap, threat), reach(x, gradient, offset - gap, threat)
        order = {"linf": math.inf, "l2": 2, "l1": 1}[threat.norm]
        one, two = (torch.linalg.vector_norm(d.flatten(1), order, dim=1) for d in (from_point, from_image))
        share = (one / (one + two).clamp_min(1e-12)).clamp(0, self.bias).reshape(-1, 1, 1, 1)
        mixed = torch.lerp(point + self.overshoot * from_point, x + self.overshoot * from_image, share)
        return mixed.clamp_(threat.low, threat.high)


def reach(x: Tensor, gradient: Tensor, amount: Tensor, threat: Threat) -> Tensor:
    """Return the least move d with <gradient, d> = amount that keeps x + d in the box; as far as the box allows where
    none does.

    Args:
        x, gradient: [B, C, H, W].
        amount: [B].

    Returns:
        d like x, least in the norm of the threat, of which it is the exact projection on a plane inside the box.
    """
    peak = gradient.flatten(1).abs().amax(1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    weight, need = gradient.flatten(1) / peak, amount.abs().to(x.dtype)[:, None] / peak
    helps = amount.sign().to(x.dtype)[:, None] * weight.sign()
    start, size = x.flatten(1), weight.abs()
    room = torch.where(helps > 0, threat.high - start, start - threat.low) * (size > 0)
    if threat.norm == "l1":
        move = _greedy(size, room, need)
    else:
        move = _level(size, room, torch.ones_like(size) if threat.norm == "linf" else size, need)
    return (helps * move).reshape(x.shape)


def _level(size: Tensor, room: Tensor, pace: Tensor, need: Tensor) -> Tensor:
    """Return min(t pace, room) for the t at which the gain, the sum of size times that, is `need`; [B, d], need [B, 1].

    The gain is concave and piecewise linear in t, so Newton's method climbs to the answer from the left in finitely
    many steps, mostly four or five, where sorting the kinks costs many times as much.
    """
    close = need * (1 - 16 * torch.finfo(size.dtype).eps)
    beyond = (size * room).sum(1, keepdim=True) <= need
    speed, t = size * pace, torch.zeros_like(need)
    done = beyond | (need == 0)
    while not done.all():
        ahead = t * pace
        gain = (size * ahead.minimum(room)).sum(1, keepdim=True)
        rate = (speed * (ahead < room)).sum(1, keepdim=True)
        done |= gain >= close
        step = (need - gain) / rate.clamp_min(1e-30)
        t = torch.where(done, t, (t + step).clamp_max(1e30))
    return torch.where(beyond, room, (t * pace).minimum(room))


def _greedy(size: Tensor, room: Tensor, need: Tensor) -> Tensor:
    """Move the entries of largest size to their box, one after the other, until the gain is `need`."""
    ordered, order = size.sort(dim=1, descending=True)
    room = room.gather(1, order)
    gain = ordered * room
    before = gain.cumsum(1) - gain
    move = ((need - before).clamp_min(0) / ordered.clamp_min(1e-30)).minimum(room)
    return torch.zeros_like(move).scatter(1, order, move)
