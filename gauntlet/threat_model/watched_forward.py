"""Calls of a user's forward, watched: what it does to its input and to the process, and what it gives back.

A forward that writes into its input would have the attack's own images changed under it, and be judged on others than
those on record. So each call gets a copy, which no write can leave, and looks at the version counter of that copy,
which every in-place operation of torch raises.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gauntlet.errors import UserError, reason
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Acceptance, Forward, Victim

WRITES = (
    "the model's forward writes into its input, so it would be judged on other images than those on record; "
    "let it work on a copy, such as x = x.clone(), or take operations without a trailing underscore"
)
"""What is said of a forward that changes the images that it is given."""


def watched(victim: Victim) -> Victim:
    """Return the victim with every forward watched; see `watch`."""
    surrogates = tuple(replace(head, forward=watch(head.forward)) for head in victim.surrogates)
    accepts = None if victim.accepts is None else _checked(victim.accepts)
    return replace(victim, predict=watch(victim.predict), surrogates=surrogates, accepts=accepts)


def _checked(accepts: Acceptance) -> Acceptance:
    """Return the acceptance on a copy of the images; it raises UserError where it gives no number for each."""

    def checked(x: Tensor, rng: Rng) -> Tensor:
        found = accepts(x.clone(), rng)
        if not isinstance(found, Tensor) or found.shape != (len(x),) or not found.is_floating_point():
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise UserError(f"accepts gives {shape} for {len(x)} images; return floating point [{len(x)}]")
        return found

    return checked


def watch(forward: Forward) -> Forward:
    """Return the forward watched; one that is watched already is returned itself."""
    return forward if isinstance(forward, Watched) else Watched(forward)


@dataclass(frozen=True, slots=True)
class Watched:
    """A forward that raises where the given one misbehaves; scores of one that does not are untouched.

    A forward that cannot take the order in which pixels lie in memory, such as one with `h.view(n, -1)` after a
    convolution, gets them in the usual order; the others keep theirs, since another order rounds otherwise.

    Raises:
        UserError: it writes into its input, leaves the gradient mode of the process changed, exits the process, or
            gives no dense floating-point scores [B, K].
    """

    forward: Forward

    def __call__(self, x: Tensor, rng: Rng) -> Tensor:
        given, gradients = x.clone(), torch.is_grad_enabled()
        version = given._version
        try:
            try:
                scores = self.forward(given, rng)
            except RuntimeError:
                usual = x.clone(memory_format=torch.contiguous_format)
                if usual.stride() == x.stride():
                    raise
                given, version = usual, usual._version
                scores = self.forward(given, rng)
        except (Exception, KeyboardInterrupt):
            raise
        except BaseException as cause:  # meant for the interpreter, such as SystemExit
            raise UserError(
                f"the model's forward ended with {type(cause).__name__}({reason(cause)}); a forward must return scores"
            ) from cause
        finally:
            changed = torch.is_grad_enabled() is not gradients
            if changed:
                torch.set_grad_enabled(gradients)
        if changed:
            raise UserError(
                "the model's forward switches gradients on or off for the whole process; use torch.no_grad() and "
                "torch.enable_grad() as with-blocks"
            )
        if given._version != version:
            raise UserError(WRITES)
        _check_form(scores, len(x))
        return scores


def _check_form(scores: object, count: int) -> None:
    """Refuse what are no scores [B, K]."""
    if not isinstance(scores, Tensor):
        raise UserError(f"the model gives a {type(scores).__name__}; it must return a tensor of scores [B, classes]")
    if scores.is_meta:
        raise UserError("the model's weights have no values (device meta); load its weights, with checkpoint=FILE")
    if scores.layout is not torch.strided:
        raise UserError("the model gives sparse scores; return scores.to_dense()")
    if not scores.is_floating_point():
        raise UserError(
            f"the model gives scores of type {str(scores.dtype).removeprefix('torch.')}; return floating-point logits, "
            "not class numbers"
        )
    if scores.dim() != 2 or len(scores) != count:
        raise UserError(
            f"the model gives scores of shape {list(scores.shape)} for {count} image{'s' * (count != 1)}; return "
            f"[{count}, classes], also for a batch of one (a squeeze() drops that dimension)"
        )
