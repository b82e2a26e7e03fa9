"""Predictions of the deployed defense repeated for the verifier: written apart from the judge, so that one checks the
other. They have the judge's random numbers, which depend on seed and sample alone."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest
from torch import Tensor

from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.threat_model.rng import Rng

Floats = NDArray[np.float64]

EDGE = 1e-5
"""Share of the scale of the scores (see `_scale`) below which the gap of the two largest may be rounding."""

ROUNDING = 1e-4
"""Share of the scale of the scores by which a margin may differ from the recorded one, whose batch was another."""


class Repeated(NamedTuple):
    """Of each image: the predicted class, and for a randomized defense what its row holds of shares, else None."""

    pred: list[int]
    shares: list[dict[str, float]] | None
    margins: list[float]
    sizes: list[float]  # the scale of the scores of each image
    slack: list[float] | None = None  # of a mixture: probability of the members that rounding may turn over
    acceptance: list[float] | None = None  # of a defense that rejects

    def lines(self, place: int, row: Any, draws: int) -> Iterator[str]:
        """One line for the margin and for each share that the row of an image does not hold; a draw on the edge may
        fall either way."""
        margin, most = self.margins[place], ROUNDING * max(self.sizes[place], 1e-3)
        if math.isfinite(margin) and not abs(margin - float(row.margin)) <= most:
            yield f"the margin is {margin:.6g}, the record says {row.margin:.6g}"
        if self.acceptance is not None:
            edge = 1.5 / draws if self.shares else 0.0  # of shares of draws
            yield from _acceptance_lines(self.acceptance[place], getattr(row, "acceptance", None), edge)
        slack = 1.5 / draws if self.slack is None else self.slack[place] + 1e-6
        for name, value in (self.shares[place] if self.shares else {}).items():
            found = getattr(row, name, None)
            if found is None or not abs(float(found) - value) <= slack:
                yield f"{name} is {value:.4g}, the record says {found}"


def other_targets(run: Evaluation, x: Tensor, ids: Tensor, y: Tensor, target: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return of which clean images x [B, C, H, W] these are not the targets that the rule of the threat chooses, [B].

    Of scores that rounding may turn over either may have been chosen.
    """
    if run.listed is not None:
        listed: NDArray[np.bool_] = run.listed[ids].numpy() != target
        return listed
    scores, label, rows = _scores(run, x, ids, "judge"), y.numpy(), np.arange(len(y))
    if run.threat.target == "random":
        away = Rng(run.seed, ids, "target").stream("target").integers((1,), scores.shape[1] - 1).squeeze(1).numpy()
        another: NDArray[np.bool_] = target != (label + 1 + away) % scores.shape[1]
        return another
    if run.threat.target == "nearest":
        away = _boundary_distances(run, x, ids, y)
        farther: NDArray[np.bool_] = away[rows, target] > away.min(1) + ROUNDING * np.abs(away).min(1)
        return farther
    sign = -1 if run.threat.target == "least_likely" else 1
    rated = sign * scores
    rated[rows, label] = -np.inf
    odd: NDArray[np.bool_] = (rated.max(1) - rated[rows, target] > EDGE * _scale(scores)) | (target == label)
    return odd


def _boundary_distances(run: Evaluation, x: Tensor, ids: Tensor, y: Tensor) -> Floats:
    """Return how far the boundary to each class is by the gradients at x, [B, K]; infinite for the label and for what
    is not among the hundred best of the others."""
    device, label = run.device, y.to(run.device)[:, None]
    leaf = x.to(device, copy=True).requires_grad_()
    scores = run.victim.predict(leaf, Rng(run.seed, ids.to(device), "judge"))
    gaps = scores.gather(1, label) - scores
    dual = {"linf": 1, "l2": 2, "l1": np.inf}[run.threat.norm]
    away = np.full(tuple(scores.shape), np.inf)
    for number in range(scores.shape[1]):
        (slope,) = torch.autograd.grad(gaps[:, number].sum(), leaf, retain_graph=True)
        length = np.linalg.norm(slope.flatten(1).double().cpu().numpy(), dual, axis=1)
        away[:, number] = gaps[:, number].detach().double().cpu().numpy() / np.maximum(length, 1e-300)
    others = np.sort(scores.detach().scatter(1, label, -torch.inf).double().cpu().numpy(), axis=1)[:, ::-1]
    least = others[:, min(100, others.shape[1] - 1) - 1, None]
    off = (scores.detach().double().cpu().numpy() < least) | (np.arange(scores.shape[1]) == y.numpy()[:, None])
    return np.where(off, np.inf, away)


def _acceptance_lines(found: float, recorded: float | None, edge: float) -> Iterator[str]:
    """Yield a line where the acceptance is not the recorded one, or falls on the other side of 0; edge: what a draw on
    the edge may change."""
    if recorded is None or not abs(found - float(recorded)) <= max(edge, ROUNDING * max(1.0, abs(found))):
        yield f"the acceptance is {found:.6g}, the record says {recorded}"
    elif (found >= 0) != (recorded >= 0) and max(abs(found), abs(float(recorded))) > max(edge, EDGE):
        yield f"the defense {'accepts' if found >= 0 else 'rejects'} it, the record says acceptance {recorded:.6g}"


def repeated(
    run: Evaluation,
    x: Tensor,
    ids: Tensor,
    y: Tensor,
    target: NDArray[np.int64] | None = None,
    *,
    clean: bool = False,
) -> Repeated:
    """What the deployed defense says of images x [B, C, H, W] with labels y [B].

    target: of candidates of a targeted attack, [B].
    clean: whether these are clean images, of which a rejection counts against the defense.
    """
    rule = run.rule
    if rule is None and target is not None:
        scores = _scores(run, x, ids, "judge")
        margins, sizes = _margins(scores, target)
        classes = np.where(np.asarray(margins) >= 0, target, _said(scores, y.numpy()))
        return Repeated(classes.tolist(), None, [-margin for margin in margins], sizes)
    if rule is None:
        scores = _scores(run, x, ids, "judge")
        said = Repeated(_said(scores, y.numpy()).tolist(), None, *_margins(scores, y.numpy()))
        return said if run.victim.accepts is None else said._replace(acceptance=_acceptance(run, x, ids))
    if run.exact:
        return _expected(run, x, ids, y)
    if run.victim.accepts is not None:
        return _selective(run, x, ids, y, clean)
    label = y.numpy()
    drawn = [_scores(run, x, ids, f"judge/{k}") for k in range(rule.draws)]
    chosen = np.stack([_said(scores, label) for scores in drawn], axis=1)
    fresh = np.stack([_said(_scores(run, x, ids, f"report/{k}"), label) for k in range(rule.draws)], axis=1)
    wrong, late = (np.mean(votes != label[:, None], axis=1) for votes in (chosen, fresh))
    if rule.rule == "vote":
        winners = [
            [_winner(row, own, rule.alpha) for row, own in zip(votes, label, strict=True)] for votes in (chosen, fresh)
        ]
        pred, late = winners[0], np.asarray(winners[1]) != label
    else:
        rivals = zip(chosen, label, wrong, strict=True)
        pred = [int(own if share <= 0.5 else _most(row[row != own])) for row, own, share in rivals]
    shares = [{"wrong_share": float(a), "fresh_share": float(b)} for a, b in zip(wrong, late, strict=True)]
    return Repeated(pred, shares, *_margins(np.mean(drawn, axis=0), label))


def _selective(run: Evaluation, x: Tensor, ids: Tensor, y: Tensor, clean: bool) -> Repeated:
    """Of a randomized defense that rejects: shares of the draws that are wrong and accepted, or of clean images wrong
    or rejected."""
    label, draws, scores, shares = y.numpy(), run.protocol.draws, [], []
    for stream in ("judge", "report"):
        votes, given = [], []
        for k in range(draws):
            found = _scores(run, x, ids, f"{stream}/{k}")
            votes.append(_said(found, label))
            given.append(np.asarray(_acceptance(run, x, ids, f"{stream}/{k}")) >= 0)
            if stream == "judge":
                scores.append(found)
        wrong, accepted = np.stack(votes, 1) != label[:, None], np.stack(given, 1)
        shares.append((wrong | ~accepted if clean else wrong & accepted).mean(1))
        if stream == "judge":
            chosen, often, taken = np.stack(votes, 1), wrong.mean(1), accepted.mean(1)
    lost = np.where(taken >= 0.5, shares[0] > 0.5, often > 0.5)
    pred = []
    for row, own, gone in zip(chosen, label, lost, strict=True):
        others = row[row != own]
        pred.append(int(own) if not gone else _most(others) if len(others) else int(own == 0))
    said = [{"wrong_share": float(a), "fresh_share": float(b)} for a, b in zip(*shares, strict=True)]
    return Repeated(pred, said, *_margins(np.mean(scores, axis=0), label), acceptance=(taken - 0.5).tolist())


@torch.no_grad()
def _expected(run: Evaluation, x: Tensor, ids: Tensor, y: Tensor) -> Repeated:
    """Of a mixture: the sum of the probabilities of the members that are wrong, for each image."""
    label, rng = y.numpy(), Rng(run.seed, ids.to(run.device), "judge")
    wrong, edge = np.zeros(len(label)), np.zeros(len(label))
    elsewhere, mean = np.zeros((len(label), run.classes)), np.zeros((len(label), run.classes))
    for head in run.victim.members:
        scores = head.forward(x.to(run.device), rng).double().cpu().numpy()
        mean += head.weight * scores
        top = np.sort(scores, axis=1)
        said = _said(scores, label)
        missed = said != label
        wrong += head.weight * missed
        edge += head.weight * (top[:, -1] - top[:, -2] <= EDGE * _scale(scores))
        elsewhere[np.arange(len(label)), said] += head.weight * missed
    pred = np.where(wrong > 0.5 + 1e-9, elsewhere.argmax(axis=1), label)
    shares = [{"wrong_share": float(value), "fresh_share": float(value)} for value in wrong]
    return Repeated(pred.tolist(), shares, *_margins(mean, label), edge.tolist())


@torch.no_grad()
def _scores(run: Evaluation, x: Tensor, ids: Tensor, stream: str) -> Floats:
    """Return the scores of one prediction, float64 [B, K]."""
    device = run.device
    scores: Floats = run.victim.predict(x.to(device), Rng(run.seed, ids.to(device), stream)).double().cpu().numpy()
    return scores


@torch.no_grad()
def _acceptance(run: Evaluation, x: Tensor, ids: Tensor, stream: str = "judge") -> list[float]:
    """Return how safely a rejecting defense accepts each image, in one draw."""
    assert run.victim.accepts is not None
    found = run.victim.accepts(x.to(run.device), Rng(run.seed, ids.to(run.device), stream))
    values: list[float] = found.double().cpu().tolist()
    return values


def _margins(scores: Floats, label: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Return the true score minus the best other one, and the scale of the scores, of each image."""
    rows, others = np.arange(len(label)), scores.copy()
    others[rows, label] = -np.inf
    return (scores[rows, label] - others.max(1)).tolist(), _scale(scores).tolist()


def _scale(scores: Floats) -> Floats:
    """Return the spread of the scores [B, K] or the largest by magnitude, whichever is less, [B]: a common offset
    decides nothing. A hundredth of the largest on top is what rounds away under an offset."""
    size = np.abs(scores).max(1)
    scale: Floats = np.minimum(size, scores.max(1) - scores.min(1)) + 0.01 * size
    return scale


def _said(scores: Floats, label: NDArray[np.int64]) -> NDArray[np.int64]:
    """The class of the largest score; where the label shares it, the first other class that does."""
    shared = scores == scores.max(axis=1, keepdims=True)
    shared[np.arange(len(label)), label] &= shared.sum(axis=1) == 1
    first: NDArray[np.int64] = shared.argmax(axis=1)
    return first


def _most(votes: NDArray[np.int64]) -> int:
    return int(np.bincount(votes).argmax())


def _winner(votes: NDArray[np.int64], label: int, alpha: float) -> int:
    """The class that most draws gave, of equals not the label; -1 where that may be chance."""
    counts = np.bincount(votes, minlength=max(label + 1, 2))
    second, first = (int(count) for count in np.sort(counts)[-2:])
    if alpha < 1 and binomtest(first, first + second, 0.5).pvalue > alpha:
        return -1
    rivals = counts.copy()
    rivals[label] = -1
    return int(label) if counts[label] > rivals.max() else int(rivals.argmax())
