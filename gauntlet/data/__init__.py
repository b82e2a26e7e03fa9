"""Data sets: labelled images in [0, 1], read lazily by position, with stable ids and a digest of their content."""

from gauntlet.data.dataset import PARTS, Batch, Dataset, Split

__all__ = ["PARTS", "Batch", "Dataset", "Split"]
