"""Where runs are shown beside their evidence on disk. A tracker that fails costs one warning, never a run."""

from harness.tracking.tracker import Log, NoTracker, Tracker
from harness.tracking.weights_and_biases import Wandb

__all__ = ["Log", "NoTracker", "Tracker", "Wandb"]
