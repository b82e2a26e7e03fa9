"""The same images and labels come out of every layout, and a network gives the same logits on them."""

import io
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gauntlet.data.array_files import ArrayFiles
from gauntlet.data.corrupted import Corrupted
from gauntlet.data.huggingface import HuggingFace
from gauntlet.data.imagefolder import ImageFolder
from gauntlet.data.parquet import Parquet
from gauntlet.data.torch_items import TorchItems
from gauntlet.data.webdataset import WebDataset
from gauntlet.models.small_cnn import SmallCNN

NAMES = ("eel", "fox", "cat")
LABELS = np.arange(12) % 3
FORM = {"classes": 3, "size": 8}


def arrays(folder, pixels, images):
    np.savez(folder / "set.npz", x=pixels.transpose(0, 3, 1, 2), y=LABELS)
    return ArrayFiles(path=str(folder / "set.npz"), **FORM)


def parquet(folder, pixels, images):
    pq.write_table(pa.table({"image": images, "label": LABELS}), folder / "test.parquet")
    return Parquet(path=str(folder), **FORM)


def hub(folder, pixels, images):
    content = pa.table({"image": images, "label": LABELS})
    with pa.OSFile(str(folder / "x-test.arrow"), "wb") as sink, pa.ipc.new_stream(sink, content.schema) as writer:
        writer.write_table(content, max_chunksize=5)
    return HuggingFace(path=str(folder), **FORM)


def folders(folder, pixels, images):
    for number, (image, label) in enumerate(zip(images, LABELS, strict=True)):
        place = folder / "test" / NAMES[label]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:03d}.png").write_bytes(image)
    return ImageFolder(path=str(folder), class_map=list(NAMES), **FORM)


def shards(folder, pixels, images):
    with tarfile.open(folder / "test.tar", "w") as archive:
        for number, (image, label) in enumerate(zip(images, LABELS, strict=True)):
            for ending, data in (("png", image), ("cls", str(label).encode())):
                info = tarfile.TarInfo(f"{number:03d}.{ending}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return WebDataset(path=str(folder), **FORM)


def corrupted(folder, pixels, images):
    np.save(folder / "fog.npy", np.concatenate([pixels] * 5))
    np.save(folder / "labels.npy", LABELS)
    return Corrupted(path=str(folder), corruption="fog", severity=4, **FORM)


def items(folder, pixels, images):
    planes = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
    return TorchItems(test=torch.utils.data.TensorDataset(planes, torch.from_numpy(LABELS)), **FORM)


@pytest.mark.parametrize("layout", [arrays, parquet, hub, folders, shards, corrupted, items])
def test_a_network_sees_the_same(tmp_path, pictures, png, layout):
    pixels = pictures(12)
    split = layout(tmp_path, pixels, [png(image) for image in pixels]).split("test")
    batch = split.read(slice(None))
    rows = batch.ids.argsort()
    if layout is folders:  # ids go class by class
        number = [int(split.source.name(row).split("/")[1][:3]) for row in batch.ids.tolist()]
        rows = torch.tensor(number).argsort()
    expected = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()).float() / 255
    assert torch.equal(batch.x[rows], expected)
    assert batch.y[rows].tolist() == LABELS.tolist()
    torch.manual_seed(0)
    network = SmallCNN(3, 3, 8).eval()
    assert torch.allclose(network(batch.x[rows]), network(expected), atol=1e-5)
