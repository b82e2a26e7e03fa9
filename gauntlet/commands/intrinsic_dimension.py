"""Images of unusual local intrinsic dimension: `gauntlet study lid [OVERRIDE ...]`. Which a filter would leave out.

Embeddings are the features of a network that the options of run.py choose, or a file of any encoder's. An image stays
where the dimension of its surroundings is within some median absolute deviations of the median (arXiv 2411.15210 made
CC1M so, with features of CLIP).
"""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gauntlet.commands.calibration import BATCH, Setting, answer
from gauntlet.data.dataset import Split
from gauntlet.data.nearest_neighbors import nearest_distances
from gauntlet.errors import UserError, reason
from gauntlet.metrics.intrinsic_dimension import NearMedian, intrinsic_dimension
from gauntlet.models.embedding import Embedding
from gauntlet.models.layers import frozen
from gauntlet.system.atomic_file import write_atomically


def given(file: Path, split: Split) -> NDArray[Any]:
    """Return the embeddings [n, d] that a file holds of the images of a split, by rising ids.

    Raises:
        UserError: it is no array of floating point with a row for each id.
    """
    try:
        rows = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as cause:
        raise UserError(f"{file} cannot be read ({reason(cause)}); give a .npy file, a row for each image") from None
    ids = np.sort(split.ids)
    if rows.ndim != 2 or rows.dtype.kind != "f" or len(rows) <= ids[-1]:
        raise UserError(
            f"{file} is {rows.dtype} of {list(rows.shape)}; give floating point [images, features], row i of the image "
            f"with id i, to {ids[-1]}"
        )
    found: NDArray[Any] = rows if len(ids) == len(rows) else rows[ids]
    return found


@contextmanager
def made(split: Split, embedding: Embedding, folder: Path, device: torch.device) -> Iterator[NDArray[np.float32]]:
    """Give the embeddings float32 [n, d] of the images of a split, by rising ids, in a file that lasts as long."""
    order = np.argsort(split.ids)
    embedding.to(device)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".embeddings") as file:
        rows: NDArray[np.float32] | None = None
        for start in range(0, len(order), BATCH):
            batch = split.read(order[start : start + BATCH].tolist())
            with torch.no_grad():
                features = embedding(batch.x.to(device)).float().cpu().numpy()
            if rows is None:
                rows = np.memmap(file.name, np.float32, "r+", shape=(len(order), features.shape[1]))
            rows[start : start + len(features)] = features
        assert rows is not None
        yield rows


def dimensions(rows: NDArray[Any], neighbors: int, device: torch.device) -> NDArray[np.float64]:
    """Return the local intrinsic dimension of each embedding of [n, d], [n].

    Raises:
        UserError: too few embeddings, or one that is not finite.
    """
    if not 2 <= neighbors < len(rows):
        raise UserError(f"--neighbors {neighbors} must be 2 to {len(rows) - 1}, the images less one")
    for start in range(0, len(rows), BATCH):
        finite = np.isfinite(rows[start : start + BATCH]).all(1)
        if not finite.all():
            raise UserError(
                f"the embedding in row {start + int(np.argmin(finite))} is not finite; mend or leave it out"
            )
    return np.concatenate([intrinsic_dimension(each) for each in nearest_distances(rows, neighbors, device)])


def lines(lid: NDArray[np.float64], near: NearMedian, deviations: float, origin: str, neighbors: int) -> Iterator[str]:
    """Yield the report."""
    low, high = near.median - deviations * near.deviation, near.median + deviations * near.deviation
    ends = np.quantile(lid, (0.05, 0.95))
    yield f"{len(lid)} images · {origin} · {neighbors} neighbors"
    yield f"dimension  median {near.median:.4g}   MAD {near.deviation:.4g}   5 % to 95 % {ends[0]:.4g} to {ends[1]:.4g}"
    yield (
        f"kept       {int(near.kept.sum())} ({near.kept.mean():.2%}) from {max(low, 0.0):.4g} to {high:.4g}; "
        f"{int((lid < low).sum())} below, {int((lid > high).sum())} above"
    )


def main(arguments: list[str] | None = None) -> int:
    """Print how many images the filter keeps, and write which; return the exit status."""
    parser = argparse.ArgumentParser(prog="gauntlet study lid", description=__doc__)
    parser.add_argument("--part", default="test", help="of the data set: test, validation or train")
    parser.add_argument(
        "--layer", metavar="NAME", help="whose output is taken; else what the last linear layer is given"
    )
    parser.add_argument(
        "--embeddings", type=Path, metavar="FILE", help=".npy, row i of the image with id i; no network"
    )
    parser.add_argument("--neighbors", type=int, default=20, help="of each image")
    parser.add_argument("--deviations", type=float, default=3.0, help="median absolute deviations that are kept")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the ids that are kept, for dataset.indices")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write id, dimension and whether it is kept")
    parser.add_argument("overrides", nargs="*", help="options of run.py: data set, model, checkpoint, runtime.device")
    options = parser.parse_args(arguments)
    return answer(lambda: list(_studied(options)))


def _studied(options: argparse.Namespace) -> Iterator[str]:
    if options.part not in ("train", "validation", "test"):
        raise UserError(f"--part {options.part} is unknown; choose test, validation or train")
    if not options.deviations > 0:
        raise UserError(f"--deviations {options.deviations:g} must be above 0")
    setting = Setting.of("none", options.overrides)
    split, device = setting.dataset.split(options.part), setting.device
    if options.embeddings:
        origin, lid = options.embeddings.name, dimensions(given(options.embeddings, split), options.neighbors, device)
    else:
        embedding = Embedding(frozen(setting.models()["model"]), options.layer)
        with made(split, embedding, setting.cache, device) as rows:
            origin, lid = f"{rows.shape[1]} features, {embedding.named}", dimensions(rows, options.neighbors, device)
    near = NearMedian.of(lid, options.deviations)
    yield from lines(lid, near, options.deviations, origin, options.neighbors)
    ids = np.sort(split.ids)
    if options.out:
        write_atomically(options.out, "".join(f"{number}\n" for number in ids[near.kept]).encode())
        yield f"ids        {options.out}; take them by dataset.indices={options.out}"
    if options.csv:
        rows_of = zip(ids, lid, near.kept, strict=True)
        text = "".join(f"{number},{float(value)!r},{int(kept)}\n" for number, value, kept in rows_of)
        write_atomically(options.csv, f"id,dimension,kept\n{text}".encode())
