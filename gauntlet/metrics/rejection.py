"""What the evidence says of a defense that rejects: how often, of what, and how well its score tells attacked images.

The threshold is the defense's own (acceptance 0), chosen on validation images; no number here chooses one on the images
that are evaluated. Imports no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.schema import ACCEPTANCE, CLEAN_STAGE
from gauntlet.metrics.confidence import wilson
from gauntlet.metrics.display import span

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rejection:
    """Acceptances of the images of a defense that rejects; rows with an error are left out.

    Attributes:
        ids: of the clean images, int64 [n], ordered.
        clean: their acceptances, [n].
        right: whether the class is right there, bool [n].
        fooled_ids: of images that are right and accepted when clean and whose class an attack changes, int64 [m].
        fooled: acceptances of the candidate with a wrong class that is accepted best, over all stages, [m].
    """

    ids: NDArray[np.int64]
    clean: Floats
    right: NDArray[np.bool_]
    fooled_ids: NDArray[np.int64]
    fooled: Floats

    @classmethod
    def of(cls, table: pa.Table) -> "Rejection | None":
        """Return that of one chunk; None where the defense never rejects."""
        if ACCEPTANCE.name not in table.column_names:
            return None
        rows = table.to_pandas()
        rows = rows[rows["error"].isna()]
        clean, tried = rows[rows["stage"] == CLEAN_STAGE].sort_values("sample"), rows[rows["stage"] != CLEAN_STAGE]
        fit = clean["sample"][~clean["broken"]]
        wrong = tried[(tried["pred"] != tried["label"]) & tried["sample"].isin(fit)]
        best = wrong.groupby("sample")[ACCEPTANCE.name].max()
        right = (clean["pred"] == clean["label"]).to_numpy(bool)
        return cls(
            clean["sample"].to_numpy(np.int64), clean[ACCEPTANCE.name].to_numpy(float), right,
            best.index.to_numpy(np.int64), best.to_numpy(float),
        )  # fmt: skip

    @classmethod
    def of_run(cls, run: RunFolder) -> "Rejection | None":
        """Return that of a run; None where its defense never rejects, which its first chunk shows."""
        several = []
        for table in run.read_parts():
            if (found := cls.of(table)) is None:
                return None
            several.append(found)
        return cls.among(several)

    @classmethod
    def among(cls, several: Sequence["Rejection"]) -> "Rejection | None":
        """Return that over chunks, or over runs of one defense; None of none."""
        if not several:
            return None
        joined = {name: np.concatenate([getattr(one, name) for one in several]) for name in cls.__annotations__}
        ids, first = np.unique(joined["ids"], return_index=True)
        fooled_ids, place = np.unique(joined["fooled_ids"], return_inverse=True)
        fooled = np.full(len(fooled_ids), -np.inf)
        np.maximum.at(fooled, place, joined["fooled"])
        return cls(ids, joined["clean"][first], joined["right"][first], fooled_ids, fooled)

    @property
    def auroc(self) -> float:
        """Return the probability that a right clean image is accepted more safely than a fooling one, ties half; NaN
        where there are none of either."""
        return auroc(self.clean[self.right], self.fooled)

    @property
    def true_positives(self) -> tuple[int, int]:
        """Return how many of the right clean images are accepted, and how many there are."""
        return int((self.clean[self.right] >= 0).sum()), int(self.right.sum())

    @property
    def true_negatives(self) -> tuple[int, int]:
        """Return how many of the fooling candidates are rejected, and how many there are."""
        return int((self.fooled < 0).sum()), len(self.fooled)

    def risk_coverage(self) -> list[tuple[float, float]]:
        """Return the (coverage, risk) of clean images at each threshold, from most to least sure: the share answered,
        and the share of wrong answers among them."""
        order = np.argsort(-self.clean, kind="stable")
        wrong = np.cumsum(~self.right[order])
        last = np.append(np.diff(self.clean[order]) != 0, True)  # of equal scores all are answered, or none
        count = np.arange(1, len(order) + 1)
        return [(float(n / len(order)), float(w / n)) for n, w in zip(count[last], wrong[last], strict=True)]

    @property
    def area(self) -> float:
        """Return the area under the risk-coverage curve, by steps: the mean risk over coverages; 0 is best."""
        curve = self.risk_coverage()
        shares = np.diff([0.0, *(coverage for coverage, _ in curve)])
        return float(sum(share * risk for share, (_, risk) in zip(shares, curve, strict=True)))


def auroc(positive: Floats, negative: Floats) -> float:
    """Return P(positive > negative) + P(equal) / 2; NaN without samples of both. positive: [n], negative: [m]."""
    if not len(positive) or not len(negative):
        return float("nan")
    ordered = np.sort(negative)
    below, upto = (np.searchsorted(ordered, positive, side) for side in ("left", "right"))
    return float((below + upto).mean() / (2 * len(negative)))


def rejection_lines(found: Rejection | None) -> list[str]:
    """Return the lines of a report; none where the defense never rejects."""
    if found is None:
        return []
    answered = found.clean >= 0
    right, (kept, fit), (caught, fooled) = (
        int((found.right & answered).sum()),
        found.true_positives,
        found.true_negatives,
    )
    lines = [
        f"rejected clean    {_share(int((~answered).sum()), len(answered))}; "
        f"{fit - kept} of {fit} that are right ({_share(fit - kept, fit)})",
        f"right if answered {_share(right, int(answered.sum()))}",
    ]
    if fooled:
        lines += [
            f"rejected attacked {_share(caught, fooled)} of {fooled} images whose class an attack changes "
            f"(TNR at a TPR of {kept / max(fit, 1):.1%})",
            f"detection AUROC   {found.auroc:.4f}   right clean images against those candidates",
        ]
    return [*lines, f"risk-coverage     area {found.area:.4f} of clean images; threshold from validation images"]


def _share(part: int, whole: int) -> str:
    if not whole:
        return "-"
    return f"{part / whole:.2%} ({span(*wilson(part, whole))})"
