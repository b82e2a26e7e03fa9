"""Examples of a threat with parameters: whether they are what these parameters make of the image."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gauntlet.threat_model.threat import Threat

ROUNDING = 1e-5
"""By which pixels of the same transformation may differ on another machine, as a share of the box."""


def parameter_problems(row: Any) -> Iterator[str]:
    """Yield a line where the parameters of a row are none, or do not use the recorded share of their limits."""
    used = np.asarray([np.nan] if row.parameters is None else row.parameters, np.float64)
    if not np.isfinite(used).all():
        yield "its parameters are missing or not finite"
    elif abs(float(np.abs(used).max(initial=0.0)) - row.distance) > 1e-6 * max(1.0, row.distance):
        yield f"its parameters {used.tolist()} do not use {row.distance:.8g} of their limits"


def transformed_distance(row: Any, z: NDArray[np.float32], x: Tensor, threat: Threat) -> tuple[float, str]:
    """Return the share of the limits that the recorded parameters use, and what is wrong with them or with z.

    Args:
        row: of the records, with `parameters` in units of their limits.
        z: the stored example, [C, H, W].
        x: the image of the data set, [C, H, W].
        threat: a `TransformationThreat`.
    """
    if row.parameters is None or not np.isfinite(np.asarray(row.parameters, np.float64)).all():
        return 0.0, "its parameters are missing or not finite"
    used = np.asarray(row.parameters, np.float64)
    distance = float(np.abs(used).max(initial=0.0))
    limit = threat.radius * (1 + 1e-6) + 1e-7
    if distance > limit:
        return distance, f"its parameters use {distance:.8g} of their limits, more than eps {threat.radius:.8g}"
    try:
        again = threat.realized(torch.tensor(used.tolist()).to(x)[None], x[None])[0].numpy()
    except (RuntimeError, ValueError) as cause:
        return distance, f"its parameters {used.tolist()} cannot be applied: {cause}"
    if not np.isfinite(z).all() or z.min() < threat.low or z.max() > threat.high:
        return distance, "the example has pixels outside the box"
    apart = float(np.abs(again - z).max())
    if apart > ROUNDING * (threat.high - threat.low):
        return distance, f"its parameters make another image of the data set's, {apart:.3g} apart"
    return distance, ""
