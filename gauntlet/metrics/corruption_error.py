"""Corruption errors (Hendrycks and Dietterich, ICLR 2019, arXiv 1903.12261, section 4). Imports no torch.

With E[s, c] the error at severity s of corruption c, and R[s, c] that of a reference (AlexNet in the paper), the
corruption error is CE[c] = sum_s E[s, c] / sum_s R[s, c], and mCE the mean of CE over the corruptions. The relative one
takes the error without a corruption from each: sum_s (E[s, c] - E[clean]) / sum_s (R[s, c] - R[clean]). Without a
reference, as for CIFAR-10-C, the mean of E over severities and corruptions is reported.
"""

import math
from collections.abc import Mapping
from statistics import fmean

SEVERITIES = range(1, 6)

Errors = Mapping[int, float]
"""Severity -> error, a share."""


def complete(errors: Mapping[str, Errors]) -> dict[str, Errors]:
    """Return the corruptions whose error is known at every severity: a mean over fewer would flatter."""
    return {name: each for name, each in errors.items() if all(severity in each for severity in SEVERITIES)}


def mean_error(errors: Mapping[str, Errors]) -> float:
    """Return the mean error over severities and complete corruptions; NaN where there is none."""
    means = [fmean(each[severity] for severity in SEVERITIES) for each in complete(errors).values()]
    return fmean(means) if means else math.nan


def corruption_error(errors: Errors, reference: Errors, clean: float = 0.0, reference_clean: float = 0.0) -> float:
    """Return CE of one corruption; NaN where the reference makes no error.

    Args:
        errors, reference: at every severity.
        clean, reference_clean: errors without a corruption, for the relative CE.
    """
    mine = sum(errors[severity] - clean for severity in SEVERITIES)
    other = sum(reference[severity] - reference_clean for severity in SEVERITIES)
    return mine / other if other > 0 else math.nan


def mean_corruption_error(errors: Mapping[str, Errors], reference: Mapping[str, Errors]) -> float:
    """Return mCE over the corruptions that are complete in both; NaN where there is none."""
    mine, other = complete(errors), complete(reference)
    shared = [corruption_error(mine[name], other[name]) for name in mine if name in other]
    return fmean(shared) if shared else math.nan
