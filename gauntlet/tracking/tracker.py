"""What a tracker is, and the one that does nothing."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.metrics.attack_summary import AttackSummary


class TrainingLog(Protocol):
    """Where the numbers of one training go."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Show the numbers of one epoch; step: from 1. Raises no Exception."""


class Tracker(Protocol):
    """Shows runs elsewhere. It reads what is on disk and changes nothing of it."""

    def evaluation(self, run: RunFolder, manifest: Manifest, total: AttackSummary) -> None:
        """Show an evaluation whose evidence is complete. Raises no Exception."""

    def training(self, name: str, key: str, config: Mapping[str, Any]) -> AbstractContextManager[TrainingLog | None]:
        """Open a log for as long as a training runs. It raises no Exception of its own.

        Args:
            name: for people.
            key: equal for equal trainings.
            config: what is trained, as plain values.
        """


@dataclass(frozen=True)
class NoTracker:
    """Shows nothing."""

    def evaluation(self, run: RunFolder, manifest: Manifest, total: AttackSummary) -> None:
        """Do nothing."""

    def training(self, name: str, key: str, config: Mapping[str, Any]) -> AbstractContextManager[TrainingLog | None]:
        """Open no log."""
        return nullcontext()
