"""What the members of a mixture are worth alone, and what that says about any probabilities of them. No torch.

From Dbouk and Shanbhag 2023, arXiv 2302.01375: with the risks of the members sorted, r_1 <= ... <= r_M, the least risk
of a mixture of them lies in [min_k r_k / k, r_1], and the risk at probabilities a in [max_i a_i r_i, sum_i a_i r_i].
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gauntlet.errors import UserError


def risks(fooled: Sequence[int] | NDArray[np.int64], members: int) -> NDArray[np.float64]:
    """Return the share of the samples on which each member was wrong on one candidate at least, [members].

    fooled: for each sample the members that were ever wrong, as bits.
    """
    bits = np.asarray(fooled, np.int64)[:, None] >> np.arange(members) & 1
    share: NDArray[np.float64] = bits.mean(axis=0)
    return share


def least(risk: Sequence[float] | NDArray[np.float64]) -> tuple[float, float]:
    """Return where the risk of the best mixture lies: [min_k r_k / k, r_1]. Raises UserError where there is no
    member."""
    if not len(risk):
        raise UserError("a mixture without members has no risk; give two or more members")
    ordered = np.sort(np.asarray(risk, float))
    return float((ordered / np.arange(1, len(ordered) + 1)).min()), float(ordered[0])


def at(risk: Sequence[float], probabilities: Sequence[float]) -> tuple[float, float]:
    """Return where the risk of the mixture with these probabilities lies, whatever the members have in common."""
    shares = np.asarray(risk, float) * np.asarray(probabilities, float)
    return max(float(shares.max()), least(risk)[0]), float(shares.sum())


def bound_lines(fooled: Sequence[int] | NDArray[np.int64] | None, manifest: Mapping[str, Any]) -> list[str]:
    """Return the lines on a mixture, beside its result: the members alone, by the candidates of this run, and the two
    intervals.
    """
    members = manifest.get("members", [])
    if fooled is None or not len(fooled) or not members:
        return []
    found, chances = risks(fooled, len(members)), [float(chance) for _, chance in members]
    alone = ", ".join(
        f"{name.removeprefix('member_')} {1 - r:.2%}" for (name, _), r in zip(members, found, strict=True)
    )
    (low, high), (best, worst) = at(found.tolist(), chances), least(found)
    return [
        f"members alone    {alone}   by the candidates of this run",
        f"bounds           {1 - high:.2%} to {1 - low:.2%} with these probabilities, "
        f"{1 - worst:.2%} to {1 - best:.2%} with the best ones",
    ]
