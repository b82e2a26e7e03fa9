"""Where runs are shown beside their evidence on disk. A tracker that fails costs one warning, never a run."""

from gauntlet.tracking.tracker import NoTracker, Tracker, TrainingLog
from gauntlet.tracking.wandb_tracker import Wandb

__all__ = ["NoTracker", "Tracker", "TrainingLog", "Wandb"]
