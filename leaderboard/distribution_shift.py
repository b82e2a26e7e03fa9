"""The board's table of accuracies without an attack on photographs of another origin than the training images.

Entries on ImageNet-A, -R, -V2 and ObjectNet make it, by the clean stage of their runs: what the
attack did does not count here, and the entries stand in the table of their threat as well.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gauntlet.leaderboard.entry import Board, Entry
from gauntlet.leaderboard.run_metadata import DataKey, mapping
from gauntlet.metrics.confidence import wilson

TARGETS = tuple(
    f"gauntlet.data.natural_images.{name}" for name in ("ImageNetA", "ImageNetR", "ImageNetV2", "ObjectNet")
)
"""Classes of the data sets, as records name them."""


@dataclass(frozen=True)
class ShiftRow:
    """The accuracy of one victim without an attack, as a share, with its 95 % interval over images."""

    data: DataKey
    defense: str
    model: str
    victim: str
    n: int
    accuracy: float
    low: float
    high: float

    def to_record(self) -> dict[str, Any]:
        """Return the row as it stands in `board.json`."""
        return {
            "dataset": self.data.name, "dataset_digest": self.data.digest, "selection": self.data.selection,
            "defense": self.defense, "model": self.model, "victim": self.victim, "n": self.n,
            "clean": round(self.accuracy, 6), "clean_low": round(self.low, 6), "clean_high": round(self.high, 6),
        }  # fmt: skip


def shift_rows(boards: Iterable[Board]) -> list[ShiftRow]:
    """Return a row for every victim and selection of such a data set, by data set, the most accurate first.

    A victim whose clean predictions are not all on record is left out: its accuracy would be over fewer images.
    """
    found: dict[tuple[DataKey, str], ShiftRow] = {}
    for board in boards:
        for entry in board.entries:
            if _shifted(entry) and entry.known == entry.n:
                found.setdefault((entry.data, entry.victim), _row(entry))
    return sorted(found.values(), key=lambda row: (row.data, -row.accuracy, row.defense, row.model, row.victim))


def _shifted(entry: Entry) -> bool:
    config = mapping(entry.runs[0].run.manifest.get("config"))
    return mapping(config.get("dataset")).get("_target_") in TARGETS


def _row(entry: Entry) -> ShiftRow:
    expected = entry.expected_clean  # of a randomized defense
    accuracy = expected.mean if expected else entry.clean / entry.n
    low, high = expected.interval if expected else wilson(entry.clean, entry.n)
    return ShiftRow(entry.data, entry.defense, entry.model, entry.victim, entry.n, accuracy, low, high)
