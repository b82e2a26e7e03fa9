"""torchvision's own readers and downloader on small files of the published formats, with no network."""

import gzip
import hashlib
import io
import pickle
import tarfile
import urllib.request
import warnings
from dataclasses import replace
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
import torch
from torchvision import datasets

from gauntlet.data import torchvision_datasets
from gauntlet.data.torchvision_datasets import CIFAR10, CIFAR100, MNIST, SVHN, FashionMNIST
from gauntlet.errors import UserError

TRAIN, TEST = 30, 12
SETS = {"MNIST": MNIST, "FashionMNIST": FashionMNIST, "SVHN": SVHN, "CIFAR10": CIFAR10, "CIFAR100": CIFAR100}


@pytest.fixture(autouse=True)
def _fresh():
    torchvision_datasets._load.cache_clear()


def md5(data):
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape) + array.tobytes()


def mnist_files(kind, images, labels):
    """The four files of MNIST, their compressed form as served, and what torchvision expects."""
    files, served, resources = {}, {}, []
    for part, name in (("train", "train"), ("test", "t10k")):
        contents = {f"{name}-images-idx3-ubyte": images[part][..., 0], f"{name}-labels-idx1-ubyte": labels[part]}
        for file, array in contents.items():
            data = idx(array.astype(np.uint8))
            files[f"{kind}/raw/{file}"] = data
            packed = gzip.compress(data, mtime=0)
            served[f"{file}.gz"] = packed
            resources.append((f"{file}.gz", md5(packed)))
    return files, served, {"resources": resources, "mirrors": ["https://example.org/"]}


def svhn_files(kind, images, labels):
    files, expected = {}, {}
    for part in ("train", "test"):
        sink = io.BytesIO()
        tens = np.where(labels[part] == 0, 10, labels[part]).astype(np.uint8)[:, None]
        scipy.io.savemat(sink, {"X": images[part].transpose(1, 2, 3, 0), "y": tens})
        name = f"{part}_32x32.mat"
        files[name] = sink.getvalue()
        expected[part] = [f"https://example.org/{name}", name, md5(files[name])]
    return files, files, {"split_list": expected}


def old_pickle(content):
    """As Python 2 and an old NumPy wrote them: flags of a dtype are numbers, which some NumPy versions warn of."""
    data = pickle.dumps(content, protocol=2)
    modern, old = b"\x89\x88\x87q", b"K\x00K\x01\x87q"
    assert modern in data
    return data.replace(modern, old)


def cifar_files(kind, images, labels):
    base = {"CIFAR10": "cifar-10-batches-py", "CIFAR100": "cifar-100-python"}[kind]
    key = {"CIFAR10": "labels", "CIFAR100": "fine_labels"}[kind]
    plain = {
        part: {"data": images[part].transpose(0, 3, 1, 2).reshape(-1, 3072), key: labels[part].tolist()}
        for part in ("train", "test")
    }
    meta = {"CIFAR10": ("batches.meta", "label_names"), "CIFAR100": ("meta", "fine_label_names")}[kind]
    files = {name: old_pickle(content) for name, content in plain.items()}
    files[meta[0]] = pickle.dumps({meta[1]: ["a", "b"]})
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"{base}/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    expected = {
        "url": "https://example.org/cifar.tar.gz",
        "filename": "cifar.tar.gz",
        "tgz_md5": md5(sink.getvalue()),
        "train_list": [["train", md5(files["train"])]],
        "test_list": [["test", md5(files["test"])]],
        "meta": {"filename": meta[0], "key": meta[1], "md5": md5(files[meta[0]])},
    }
    return {f"{base}/{name}": data for name, data in files.items()}, {"cifar.tar.gz": sink.getvalue()}, expected


WRITERS = {
    "MNIST": mnist_files,
    "FashionMNIST": mnist_files,
    "SVHN": svhn_files,
    "CIFAR10": cifar_files,
    "CIFAR100": cifar_files,
}


class Published:
    """A small set in its published form. torchvision is told the check sums of these files and does check them."""

    def __init__(self, kind, pictures, monkeypatch):
        made = SETS[kind]()
        rng = np.random.default_rng(0)
        self.images = {p: pictures(n, made.size, made.channels, seed=n) for p, n in (("train", TRAIN), ("test", TEST))}
        self.labels = {part: rng.integers(0, made.classes, len(images)) for part, images in self.images.items()}
        self.files, self.served, expected = WRITERS[kind](kind, self.images, self.labels)
        for name, value in expected.items():
            monkeypatch.setattr(getattr(datasets, kind), name, value)

    def write(self, root):
        for name, data in self.files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)


@pytest.fixture(params=list(SETS))
def kind(request):
    return request.param


@pytest.fixture
def published(kind, pictures, monkeypatch):
    return Published(kind, pictures, monkeypatch)


class Response(io.BytesIO):
    def __init__(self, url, data, breaks):
        super().__init__(data)
        self.url, self.length, self.breaks = url, len(data), breaks

    def read(self, size=-1):
        if self.breaks and self.tell():
            raise ConnectionResetError(104, "Connection reset by peer")
        return super().read(min(size, 100) if self.breaks else size)


@pytest.fixture
def server(monkeypatch):
    """Answers for the network: `served` by file name, `breaks` in the middle of the first file, `asked` URLs."""

    class Server:
        served: dict[str, bytes]
        breaks = False
        asked: list[str]

        def __call__(self, request, *args, **kwargs):
            url = request.full_url
            self.asked.append(url)
            name = url.rpartition("/")[2]
            if name not in self.served:
                raise URLError("Name or service not known")
            return Response(url, self.served[name], self.breaks and request.get_method() == "GET")

    made = Server()
    made.served, made.asked = {}, []
    monkeypatch.setattr(urllib.request, "urlopen", made)
    return made


def leftovers(root):
    return sorted(path.name for path in root.rglob("*") if path.name != ".incoming.lock")


def check(published, data):
    batch = data.split("test").read(slice(None))
    expected = published.images["test"].astype(np.float32) / np.float32(255)
    assert torch.equal(batch.x, torch.from_numpy(expected.transpose(0, 3, 1, 2)))
    assert batch.y.tolist() == published.labels["test"].tolist()
    assert batch.ids.tolist() == list(range(TEST))


def test_published_files_are_read(kind, published, tmp_path, server):
    published.write(tmp_path)
    data = SETS[kind](root=str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(published, data)
    training, validation = data.split("train"), data.split("validation")
    assert (len(training), len(validation)) == (27, 3)
    assert sorted([*training.ids, *validation.ids]) == list(range(TRAIN))
    assert validation.read(slice(None)).y.tolist() == published.labels["train"][validation.ids].tolist()
    assert len({data.split(part).digest() for part in ("train", "validation", "test")}) == 3
    limited = replace(data, limit=3).split("test")
    assert limited.ids.tolist() == [0, 1, 2]
    assert limited.digest() == data.split("test").digest()
    assert server.asked == []


def test_missing_files_are_not_fetched_unasked(kind, tmp_path, server):
    with pytest.raises(UserError, match=rf"^{kind} is missing or damaged under dataset.root={tmp_path} .*") as error:
        SETS[kind](root=str(tmp_path)).split("test")
    assert "dataset.download=true" in str(error.value)
    assert "\n" not in str(error.value)
    assert server.asked == leftovers(tmp_path) == []


def test_files_are_fetched_on_request(kind, published, tmp_path, server):
    server.served = published.served
    data = SETS[kind](root=str(tmp_path / "new"), download=True)
    check(published, data)
    asked = len(server.asked)
    assert asked > 0
    torchvision_datasets._load.cache_clear()
    check(published, data)
    check(published, replace(data, download=False))
    assert len(server.asked) == asked


def test_without_a_network_one_line_tells_so(kind, published, tmp_path, server):
    data = SETS[kind](root=str(tmp_path), download=True)
    with pytest.raises(UserError, match=rf"^{kind} cannot be downloaded to {tmp_path} \(.+\); connect") as error:
        data.split("test")
    assert "\n" not in str(error.value)
    assert leftovers(tmp_path) == []


def test_a_broken_download_leaves_nothing_that_breaks_the_next(kind, published, tmp_path, server):
    server.served, server.breaks = published.served, True
    data = SETS[kind](root=str(tmp_path), download=True)
    with pytest.raises(UserError, match="cannot be downloaded"):
        data.split("test")
    assert leftovers(tmp_path) == []
    server.breaks = False
    check(published, data)


def test_a_killed_download_leaves_nothing_that_breaks_the_next(kind, published, tmp_path, server):
    for name, data in published.files.items():
        half = tmp_path / ".incoming" / name
        half.parent.mkdir(parents=True, exist_ok=True)
        half.write_bytes(data[:20])
    server.served = published.served
    check(published, SETS[kind](root=str(tmp_path), download=True))
    assert not (tmp_path / ".incoming").exists()


def test_damaged_files_are_named_and_mended_on_request(kind, published, tmp_path, server):
    published.write(tmp_path)
    for name, data in published.files.items():
        (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"is missing or damaged under dataset.root="):
        SETS[kind](root=str(tmp_path)).split("test")
    server.served = published.served
    check(published, SETS[kind](root=str(tmp_path), download=True))


def test_a_folder_that_cannot_be_made_is_named(kind, tmp_path, server):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot be downloaded to .*file/data \(Not a directory\)"):
        SETS[kind](root=str(tmp_path / "file" / "data"), download=True).split("test")


def test_what_another_process_has_fetched_meanwhile_is_used(kind, published, tmp_path, server):
    published.write(tmp_path)
    torchvision_datasets._fetch(kind, tmp_path, train=False)
    assert server.asked == []


def test_fields_that_cannot_be_are_refused(kind):
    with pytest.raises(UserError, match=rf"{kind} has classes=\d+, channels=\d, size=\d+; leave"):
        SETS[kind](classes=7)


def test_mnist_with_too_few_labels_is_damaged(pictures, monkeypatch, tmp_path):
    published = Published("MNIST", pictures, monkeypatch)
    name = "MNIST/raw/t10k-labels-idx1-ubyte"
    published.files[name] = idx(published.labels["test"][:5].astype(np.uint8))
    published.write(tmp_path)
    with pytest.raises(UserError, match=r"damaged under .* \(12 images of uint8, 5 labels\)"):
        MNIST(root=str(tmp_path)).split("test")


def test_a_label_outside_the_classes_is_named(pictures, monkeypatch, tmp_path):
    published = Published("MNIST", pictures, monkeypatch)
    labels = published.labels["test"].astype(np.uint8)
    labels[4] = 11
    published.files["MNIST/raw/t10k-labels-idx1-ubyte"] = idx(labels)
    published.write(tmp_path)
    with pytest.raises(
        UserError, match=r"sample 4 of mnist \(MNIST test set, image 4\) has label 11, not one of 0 to 9"
    ):
        MNIST(root=str(tmp_path)).split("test")
