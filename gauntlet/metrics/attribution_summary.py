"""What certificates for attributions say at the eps of their threat. Imports no torch."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gauntlet.metrics.confidence import bounded_mean


@dataclass(frozen=True)
class AttributionSummary:
    """Of the samples that are predicted right.

    Attributes:
        cosine: certified for each, -1: nothing; float64 [n].
        overlap: certified share of the most important pixels, float64 [n]; empty where it is not asked.
    """

    cosine: NDArray[np.float64]
    overlap: NDArray[np.float64]

    @classmethod
    def of(cls, tables: list[pa.Table]) -> "AttributionSummary | None":
        """Return the summary of records; None where they are not of attributions, or no eps was asked."""
        rows = [table.filter(table["correct"]) for table in tables if "cosine" in table.column_names]
        found = [np.concatenate([table[name].drop_null().to_numpy() for table in rows]) for name in COLUMNS if rows]
        if not found or not len(found[0]) or np.isnan(found[0]).all():
            return None
        return cls(found[0], found[1][~np.isnan(found[1])])

    def lines(self) -> list[str]:
        """Return it in words: quartiles of the cosine, and the mean overlap with a 95 % interval over images."""
        low, middle, high = np.quantile(self.cosine, (0.25, 0.5, 0.75), method="inverted_cdf")
        none = (self.cosine < 0).mean()
        out = [f"cosine at least {low:.3f} / {middle:.3f} / {high:.3f} (quartiles), nothing certified for {none:.1%}"]
        if len(self.overlap):
            ends = bounded_mean(self.overlap)
            out.append(f"top pixels kept at least {self.overlap.mean():.1%} on average [{ends[0]:.1%}, {ends[1]:.1%}]")
        return out


COLUMNS = ("cosine", "overlap")
