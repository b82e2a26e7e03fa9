"""What layer norm, attention and smooth activations amount to, as nodes of a graph."""

import math

import torch

from gauntlet.certification.crown.affine_layers import Dense, Scale
from gauntlet.certification.crown.drafts import Draft, WatchedCall, matrix_product
from gauntlet.certification.crown.layer_parsing import Unsupported, exact
from gauntlet.certification.crown.products import Times
from gauntlet.certification.crown.smooth_curves import GELU, SILU, SQUARE, TANH_GELU, inverse_root
from gauntlet.certification.crown.softmaxes import Softmax

ROOM = 16
"""Roundings that a kernel may add to those of the operations that it amounts to."""


def activation(call: WatchedCall, draft: Draft) -> list[int]:
    value, option = call.given("input", "approximate")
    place = call.node(value)
    if place is None or call.results[0].shape != value.shape:
        raise Unsupported(call.name)
    curve = SILU if call.name == "silu" else TANH_GELU if option == "tanh" else GELU
    return [draft.add(curve, draft.shape(place), place)]


def square(call: WatchedCall, draft: Draft) -> list[int]:
    value, power = call.given("input", "exponent")
    place = call.node(value)
    if place is None or (call.name != "square" and power != 2):
        raise Unsupported(f"{call.name} other than the square")
    return [draft.add(SQUARE, draft.shape(place), place)]


def layer_norm(call: WatchedCall, draft: Draft) -> list[int]:
    """Return the node of (x - mean) / sqrt(variance + epsilon) times weight plus bias.

    Variances in one pass are off by up to n u |x| |x - mean| (Chan, Golub and LeVeque 1983), more than what the
    squares themselves round where the mean is large. What the variance reads is charged for that with 4 n^1.5
    roundings of |x| + mean |x|, apart from what the quotient reads.
    """
    value, form, weight, bias, epsilon = call.given("input", "normalized_shape", "weight", "bias", "eps")
    place = call.node(value)
    if place is None or len(form) != 1 or value.shape[-1] != form[0] or call.results[0].shape != value.shape:
        raise Unsupported(f"{call.name} over more than the last axis")
    (size,), shape, device = form, draft.shape(place), value.device
    terms, once = 4 * size + ROOM, 4 * size * math.ceil(math.sqrt(size)) + ROOM
    centring = torch.eye(size, dtype=torch.float64, device=device) - 1 / size
    apart = draft.add(Dense(weight=centring, terms=terms), shape, place)
    squares = draft.add(SQUARE, shape, draft.add(Dense(weight=centring, terms=once), shape, place))
    mean = torch.full((1, size), 1 / size, dtype=torch.float64, device=device)
    variance = draft.add(Dense(weight=mean, terms=terms), (*shape[:-1], 1), squares)
    inverse = draft.add(inverse_root(1e-5 if epsilon is None else epsilon), (*shape[:-1], 1), variance)
    factor = draft.rearranged(inverse, lambda where: where.expand(shape))
    out = draft.add(Times(), shape, apart, factor)
    if weight is None:
        return [out]
    shift = torch.zeros_like(exact(weight)) if bias is None else exact(bias)
    return [draft.add(Scale(weight=exact(weight), bias=shift, terms=8), shape, out)]


def attention(call: WatchedCall, draft: Draft) -> list[int]:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    query, key, value, mask, dropout, causal, scale, grouped = call.given(*names)
    places = [call.node(each) for each in (query, key, value)]
    if mask is not None or dropout or causal or grouped or any(place is None for place in places):
        raise Unsupported(f"{call.name} with a mask, dropout, grouped queries or constants")
    q, k, v = (place for place in places if place is not None)
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    turned = draft.rearranged(k, lambda where: where.transpose(-1, -2))
    scores = matrix_product(draft, draft.scaled(q, factor, ROOM), turned, ROOM)
    shares = draft.add(Softmax(), draft.shape(scores), scores)
    return [matrix_product(draft, shares, v, ROOM)]
