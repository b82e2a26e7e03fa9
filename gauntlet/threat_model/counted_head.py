"""The access handle of an attack to its victim: it counts every pass, per sample, and says what is broken."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.decision import misclassified
from gauntlet.threat_model.passes import (
    HostValues,
    Passes,
    Pullback,
    positions,
    resolved,
    weighed,
    with_graph,
)
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Forward, Head

View = Callable[[Tensor], Tensor]
"""A differentiable change of the images [B, C, H, W] that a head is shown instead of them."""

TRIALS = 10
"""Draws in a row that must be wrong before an attack believes that a candidate fools a randomized defense."""


@dataclass(frozen=True)
class CountedHead:
    """A head as an attack sees it.

    Args:
        head: the view that is attacked.
        predict: the deployed forward, in float32: the judge.
        counts: where passes are booked.
        fast: a forward that agrees with the head up to rounding and is cheaper to differentiate; None: the head's own.
        dtype: reduced precision of the gradient passes, such as bfloat16; None: that of the images. Never the judge's.
        batch_size: the most samples of a pass; None: no limit.
        trials: draws of the deployed forward that must all be wrong before a candidate counts as found: one lucky draw
            shows nothing. 1 for a deterministic defense, `TRIALS` for a randomized one.
        member_predictors: of a mixture, whose expectation is exact: a candidate counts as found when all are wrong.
        passes: how images pass the network: by themselves, or gathered with those of other calls.

    Attributes:
        answers: whether `broken` can say yes. A surrogate's cannot: an attack need not pay for asking it.
    """

    answers: ClassVar[bool] = True

    head: Head
    predict: Forward
    counts: Counts
    fast: Forward | None = None
    dtype: torch.dtype | None = None
    batch_size: int | None = None
    trials: int = 1
    member_predictors: tuple[Forward, ...] = ()
    passes: Passes = field(default_factory=Passes)

    @property
    def looks(self) -> int:
        """Return how many draws the returned logits are the mean of: enough to compare candidates of a random head."""
        random = self.trials > 1 and (self.head.exact or self.head.draws > 1)
        return max(self.head.draws, self.trials) if random else self.head.draws

    @property
    def deterministic(self) -> bool:
        """Return whether the same image has the same logits and gradient in every pass. A surrogate need not."""
        return self.answers and self.trials == 1 and self.head.draws == 1

    def drawn(self, draws: int) -> "CountedHead":
        """Return the same head; where it is random, its gradients are means over that many draws at least."""
        random = self.head.draws > 1 or (self.trials > 1 and self.head.exact)
        return replace(self, head=replace(self.head, draws=max(draws, self.head.draws))) if random else self

    def batches(self, index: Tensor) -> tuple[Tensor, ...]:
        """Return the positions int64 [b] in pieces that fit one pass: for an attack that is called with a whole
        chunk."""
        pieces: tuple[Tensor, ...] = index.split(self.batch_size or max(len(index), 1))  # type: ignore[no-untyped-call]
        return pieces if len(index) else ()

    @property
    def members(self) -> "tuple[CountedHead, ...]":
        """Return the heads that this one is made of: itself, where it is no ensemble."""
        return (self,)

    @torch.no_grad()
    def scores(self, z: Tensor, rng: Rng) -> Tensor:
        """Return the logits of the head without a gradient, the mean over `looks` draws, [B, K]."""
        total = self.passes.forward(self.head.forward, z, rng.stream("draw0"))
        for k in range(1, self.looks):
            total = total + self.passes.forward(self.head.forward, z, rng.stream(f"draw{k}"))
        self.counts.add("forwards", rng.ids, self.looks)
        return total / self.looks if self.looks > 1 else total

    def gradient(self, z: Tensor, cotangent: Pullback, rng: Rng, view: View | None = None) -> tuple[Tensor, Tensor]:
        """Return the logits [B, K], the mean over `looks` draws, and the pulled-back cotangent like z, over the head's
        draws.

        Entries that are not finite are returned as zero, and counted.

        cotangent: a function of the logits, row by row. Where it is a `RowLoss` the images may share a pass with
            others.
        view: what the head is shown of z; the gradient flows through it.
        """
        logits, gradient, _ = self.pulled(z, cotangent, rng, view)
        return logits, self.settled(gradient, rng)

    def pulled(
        self, z: Tensor, cotangent: Pullback, rng: Rng, view: View | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `gradient` does, read by nobody yet, and the sums of the entries of each gradient, [B].

        For loops that read all of a step at once: where one is `doubtful` by its sum, `settled` makes of the gradients
        what `gradient` gives.
        """
        logits, gradient = self._pull(z, cotangent, rng.stream("draw0"), view)
        for k in range(1, self.head.draws):
            more = self._pull(z, cotangent, rng.stream(f"draw{k}"), view)
            logits, gradient = logits + more[0], gradient + more[1]
        self.counts.add("backwards", rng.ids, self.head.draws)
        return self._mean(logits, z, rng, view), gradient, gradient.sum(tuple(range(1, gradient.dim())))

    def linearize(self, z: Tensor, rng: Rng, view: View | None = None) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return the logits [B, K], the mean over `looks` draws, and the map that pulls a cotangent [B, K] back to z.

        For cotangents that depend on the logits of several heads. The graph lives as long as the map, which may be
        called again; each call costs one backward for each draw. A network that was compiled may forbid to call it
        again (`torch._functorch.config.donated_buffer`): then each call costs one forward for each draw, too.
        """

        def graph() -> tuple[Tensor, Tensor]:
            leaf = z.detach().requires_grad_()
            with torch.enable_grad():
                draws = [self._seen(leaf, rng.stream(f"draw{k}"), view) for k in range(self.head.draws)]
                return leaf, torch.stack(draws).mean(0) if len(draws) > 1 else draws[0]

        leaf, mean = graph()

        def pull(cotangent: Tensor) -> Tensor:
            try:
                (gradient,) = torch.autograd.grad(weighed(mean, cotangent), leaf, retain_graph=True)
            except RuntimeError as problem:
                if "donated" not in str(problem):
                    raise
                again, logits = graph()
                self.counts.add("forwards", rng.ids, self.head.draws)
                (gradient,) = torch.autograd.grad(weighed(logits, cotangent), again)
            self.counts.add("backwards", rng.ids, self.head.draws)
            return self.settled(gradient, rng)

        total = resolved(mean) * self.head.draws
        return self._mean(total, z, rng, view), pull

    def broken(
        self, z: Tensor, logits: Tensor, y: Tensor, rng: Rng, plain: bool = False, margin: Tensor | None = None
    ) -> Tensor:
        """Return which candidates fool the deployed forward, bool [B]. logits: what this head gave for them.

        The logits of an exact head in full precision are the verdict. Those of a BN-fused copy only propose, and those
        of a surrogate say nothing: then `predict` decides, at the price of one forward for each sample asked. A
        randomized defense must be wrong in all of `trials` draws; the first right draw ends the asking.

        plain: the logits come from `scores`, which never uses the BN-fused copy.
        margin: of the logits, [B], where it is known: the score of the label less the best other one. It is positive
            exactly where that score is the larger one, since differences of floats underflow gradually.
        """
        wrong = _wrong(logits, y, margin)
        if self._decides(plain):
            return wrong
        if not self.head.exact:
            return self.fooled(z, y, rng)
        (asked,) = self.passes.read(wrong)
        if not asked.any():
            return wrong
        (at,) = positions(z.device, asked.nonzero()[0])
        return wrong.index_copy(0, at, self.fooled(z.index_select(0, at), y[at], rng.select(at)))

    def fallen(
        self, z: Tensor, y: Tensor, rng: Rng, margin: Tensor, *columns: Tensor, plain: bool = False
    ) -> tuple[HostValues, ...]:
        """Return on the host what `broken` says of candidates whose logits have this margin, the margin, and other
        columns [B]: by a single read, where the logits are the verdict."""
        margin_there, *others = self.passes.read(margin, *columns)
        fallen = ~(margin_there > 0)
        if not self._decides(plain):
            asked = fallen if self.head.exact else np.ones_like(fallen)
            if asked.any():
                (at,) = positions(z.device, asked.nonzero()[0])
                (fallen[asked],) = self.passes.read(self.fooled(z.index_select(0, at), y[at], rng.select(at)))
        return fallen, margin_there, *others

    def _decides(self, plain: bool) -> bool:
        """Return whether the logits are the verdict."""
        return self.trials == 1 and self.head.exact and (plain or (self.fast is None and self.dtype is None))

    @torch.no_grad()
    def fooled(self, z: Tensor, y: Tensor, rng: Rng) -> Tensor:
        """Return whether `predict` is wrong in all of `trials` draws, or all member predictors are, bool [B].

        Costs one forward each until one is right.
        """
        first, *others = self.member_predictors or (self.predict,) * self.trials
        wrong = misclassified(self.passes.forward(first, z, rng.stream("verdict")), y)
        self.counts.add("forwards", rng.ids)
        for k, forward in enumerate(others, 1):
            at = wrong.nonzero().squeeze(1)
            if not len(at):
                break
            draw = rng.select(at)
            wrong[at] = misclassified(self.passes.forward(forward, z[at], draw.stream(f"verdict{k}")), y[at])
            self.counts.add("forwards", draw.ids)
        return wrong

    def _mean(self, total: Tensor, z: Tensor, rng: Rng, view: View | None) -> Tensor:
        """Return the sum of the logits over the head's draws, made the mean over `looks` of them; all are booked."""
        if self.looks > self.head.draws:
            with torch.no_grad():
                for k in range(self.head.draws, self.looks):
                    seen = z if view is None else view(z)
                    total = total + self.passes.forward(self._proposes, seen, rng.stream(f"draw{k}"))
        self.counts.add("forwards", rng.ids, self.looks)
        return total / self.looks if self.looks > 1 else total

    @property
    def _proposes(self) -> Forward:
        """Return the forward of the gradient passes."""
        return self.fast or self.head.forward

    def _pull(self, z: Tensor, cotangent: Pullback, rng: Rng, view: View | None) -> tuple[Tensor, Tensor]:
        if view is None:
            return self.passes.pull(self._proposes, z, cotangent, rng, self.dtype)
        leaf = z.detach().requires_grad_()
        with torch.enable_grad():
            shown = view(leaf)
        logits, gradient = self.passes.pull(self._proposes, shown, cotangent, rng, self.dtype)
        (gradient,) = torch.autograd.grad(weighed(shown, gradient), leaf)
        return logits, gradient

    def _seen(self, leaf: Tensor, rng: Rng, view: View | None) -> Tensor:
        """Return the logits with their graph, for one draw. The view is computed in the precision of the images."""
        with torch.enable_grad():
            shown = leaf if view is None else view(leaf)
        return with_graph(self._proposes, shown, rng, self.dtype)

    def settled(self, gradient: Tensor, rng: Rng) -> Tensor:
        """Return the gradient with entries that are not finite set to zero; such, and gradients of zero, are booked.
        Nothing is read."""
        peak = gradient.abs().flatten(1).amax(1)
        self.counts.add("zero_gradients", rng.ids, (peak == 0).long())
        self.counts.add("bad_gradients", rng.ids, (~peak.isfinite()).long())
        return gradient.nan_to_num(0.0, 0.0, 0.0)


def _wrong(logits: Tensor, y: Tensor, margin: Tensor | None) -> Tensor:
    return misclassified(logits, y) if margin is None else (margin > 0).logical_not_()
