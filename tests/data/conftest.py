"""Small pictures, and files that hold them."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image


def _pictures(count: int, size: int = 8, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def _png(pixels: np.ndarray) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(sink, "PNG")
    return sink.getvalue()


def _write_parquet(
    path: Path,
    images: list[bytes | None],
    labels: list[int | None] | pa.Array,
    group: int = 1000,
    names=("image", "label"),
) -> Path:
    structs = pa.array(
        [{"bytes": data, "path": None} for data in images], pa.struct({"bytes": "binary", "path": "string"})
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({names[0]: structs, names[1]: pa.array(labels)}), path, row_group_size=group)
    return path


@pytest.fixture(scope="session")
def pictures() -> Callable[..., np.ndarray]:
    """Random uint8 images [count, size, size, channels]."""
    return _pictures


@pytest.fixture(scope="session")
def png() -> Callable[[np.ndarray], bytes]:
    """Encodes one image without loss."""
    return _png


@pytest.fixture(scope="session")
def write_parquet() -> Callable[..., Path]:
    """Writes encoded images and labels in the layout of the Hub."""
    return _write_parquet


@pytest.fixture(scope="session")
def write_folder() -> Callable[..., Path]:
    """Writes images [class][image] as `folder/<class>/<number>.png`."""

    def write(folder: Path, images: dict[str, np.ndarray]) -> Path:
        for name, pixels in images.items():
            (folder / name).mkdir(parents=True)
            for number, image in enumerate(pixels):
                (folder / name / f"{number:04d}.png").write_bytes(_png(image))
        return folder

    return write
