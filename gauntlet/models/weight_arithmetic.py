"""Sums and differences of the weights of networks of one architecture: interpolation, and patches."""

from collections.abc import Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from gauntlet.errors import UserError, some

Weights = Mapping[str, Tensor]


@torch.no_grad()
def interpolated(base: nn.Module, other: nn.Module, share: float) -> nn.Module:
    """Return a network with the weights (1 - share) base + share other, batch-norm statistics among them.

    At 0 and 1 they are those of base and other bit for bit; whole numbers, such as counts of batches, are of the nearer
    one.

    Args:
        base, other: of one architecture, left as they are.
        share: any number.

    Raises:
        UserError: the architectures differ.
    """
    mine, theirs = _matching(base, other)
    # A difference that overflows must not reach the ends: lerp is exact there on finite weights only.
    if share in (0, 1):
        return _loaded(base, theirs if share else mine)
    near = theirs if share > 0.5 else mine
    return _loaded(
        base, {n: torch.lerp(w, theirs[n], share) if w.is_floating_point() else near[n] for n, w in mine.items()}
    )


@torch.no_grad()
def signature(robust: nn.Module, standard: nn.Module, initial: nn.Module | None = None) -> dict[str, Tensor]:
    """Return the robust weight signature: what robust training did to each weight that standard training did not.

    With first weights, (robust - initial) less its component along (standard - initial), which is then orthogonal to
    that (Cai et al. 2023, arXiv 2302.12480); without, robust - standard. Of parameters only: sums of batch-norm
    statistics mean nothing, and a variance may become negative.

    Raises:
        UserError: the architectures differ.
    """
    _, theirs = _matching(standard, robust)
    mine = dict(standard.named_parameters())
    if initial is None:
        return {name: theirs[name] - weight for name, weight in mine.items()}
    _, first = _matching(standard, initial)
    found = {}
    for name, weight in mine.items():
        origin = first[name].to(weight.device)
        along, moved = (weight - origin).double(), (theirs[name] - origin).double()
        size = along.square().sum()
        share = (along * moved).sum() / size if size > 0 else size
        found[name] = (moved - share * along).to(weight.dtype)
    return found


@torch.no_grad()
def patched(
    model: nn.Module,
    patch: Weights,
    share: float,
    modules: Sequence[str] | None = None,
    statistics: nn.Module | None = None,
) -> nn.Module:
    """Return a copy of a network with share times the patch added to its weights; at 0 they are its own bit for bit.

    Args:
        patch: name of a tensor of the network -> what is added.
        modules: names of the modules that are patched, with all below them; None: all.
        statistics: the network towards whose batch-norm statistics those of the copy go by the same share; None: they
            stay.

    Raises:
        UserError: there is no module of such a name, a tensor of the patch has another shape, or a variance of batch
            norm becomes negative.
    """
    weights = model.state_dict()
    chosen = _within(model, modules)
    for name in patch:
        if name not in weights or weights[name].shape != patch[name].shape:
            raise UserError(f"the patch has no place for {name} in this network; take parts of one architecture")
    found = {n: w + share * patch[n] if share and n in patch and n in chosen else w for n, w in weights.items()}
    if statistics is not None and share:
        _, theirs = _matching(model, statistics)
        for name in {name for name, _ in model.named_buffers()} & chosen & set(weights):
            if weights[name].is_floating_point():
                found[name] = torch.lerp(weights[name], theirs[name], share)
    for name, value in found.items():
        if name.endswith("running_var") and bool((value < 0).any()):
            raise UserError(f"share={share} makes variances of batch norm negative ({name}); take one from 0 to 1")
    return _loaded(model, found)


def module_named(model: nn.Module, name: str, key: str) -> nn.Module:
    """Return the module of a dotted name. Raises UserError, which says the key of the setting, where there is none."""
    found: nn.Module | None = dict(model.named_modules()).get(name) if name else None
    if found is None:
        near = [other for other, module in model.named_modules() if next(module.parameters(False), None) is not None]
        raise UserError(f"{key} names {name!r}, which is no module of the network; it has {some(near, 6)}")
    return found


def _within(model: nn.Module, modules: Sequence[str] | None) -> set[str]:
    """Return the names of the tensors within some modules."""
    if modules is None:
        return set(model.state_dict())
    return {f"{name}.{inner}" for name in modules for inner in module_named(model, name, "modules").state_dict()}


def _matching(one: nn.Module, other: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    mine, theirs = one.state_dict(), other.state_dict()
    if {n: w.shape for n, w in mine.items()} != {n: w.shape for n, w in theirs.items()}:
        raise UserError("networks of different architectures cannot be added up; give all parts one model")
    return mine, theirs


def _loaded(model: nn.Module, weights: Weights) -> nn.Module:
    copy: nn.Module = deepcopy(model)
    copy.load_state_dict(dict(weights))
    return copy
