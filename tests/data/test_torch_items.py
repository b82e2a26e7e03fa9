"""Items of a user's own data set give their images; what is no image with a label is one line with its place."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from gauntlet.commands.command_line import by_file
from gauntlet.config.code_files import check_code_file
from gauntlet.data.array_files import ArrayFiles
from gauntlet.data.file_items import FileItems
from gauntlet.data.torch_items import TorchItems
from gauntlet.errors import UserError

LABELS = [2, 0, 1, 2, 0]


def data(items, **more):
    return TorchItems(**({"test": items, "classes": 3, "size": 8} | more))


@pytest.fixture
def pixels(pictures):
    return pictures(5)


def pairs(images, labels=LABELS):
    return list(zip(images, labels, strict=True))


@pytest.mark.parametrize(
    "form",
    [
        lambda image: torch.from_numpy(image.transpose(2, 0, 1).copy()),
        lambda image: torch.from_numpy(image.transpose(2, 0, 1).copy()).float() / 255,
        lambda image: image.transpose(2, 0, 1) / 255,
        Image.fromarray,
    ],
    ids=["uint8", "float", "float64 array", "picture"],
)
def test_every_form_of_an_image_gives_the_same(pixels, form):
    batch = data(pairs([form(image) for image in pixels])).split("test").read([4, 0, 0])
    expected = torch.from_numpy(pixels[[4, 0, 0]].transpose(0, 3, 1, 2).copy()).float() / 255
    assert torch.equal(batch.x, expected)
    assert batch.y.tolist() == [0, 2, 2]
    assert batch.ids.tolist() == [4, 0, 0]


def test_the_digest_is_that_of_the_same_content_in_arrays(tmp_path, pixels):
    np.savez(tmp_path / "set.npz", x=pixels, y=LABELS)
    arrays = ArrayFiles(path=str(tmp_path / "set.npz"), classes=3, size=8).split("test")
    planes = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
    assert data(TensorDataset(planes, torch.tensor(LABELS))).split("test").digest() == arrays.digest()
    floats = data(TensorDataset(planes.float() / 255, torch.tensor(LABELS))).split("test").digest()
    np.savez(tmp_path / "set.npz", x=pixels.astype(np.float32) / np.float32(255), y=LABELS)
    again = ArrayFiles(path=str(tmp_path / "." / "set.npz"), classes=3, size=8, x="x", y="y", layout="nhwc")
    assert floats == again.split("test").digest() != arrays.digest()


def test_training_items_are_split_once(pixels):
    items = pairs([Image.fromarray(image) for image in pixels])
    own = data(items, train=items)
    parts = [own.split(part).ids.tolist() for part in ("train", "validation")]
    assert sorted(parts[0] + parts[1]) == list(range(5))
    with pytest.raises(UserError, match="gives no train items, and a network has to be trained on some"):
        data(items).split("train")


def test_names_are_those_of_the_items_or_of_the_map(pixels):
    class Named(list):
        classes = ("eel", "fox", "cat")

    items = Named(pairs([Image.fromarray(image) for image in pixels]))
    assert data(items).class_names() == Named.classes
    assert data(items, class_map=["a", "b", "c"]).class_names() == ("a", "b", "c")
    assert data(list(items)).class_names() == ()


def test_an_item_that_changes_is_told():
    class Restless:
        def __len__(self):
            return 3

        def __getitem__(self, row):
            return torch.rand(3, 8, 8), 0

    split = data(Restless()).split("test")
    with pytest.raises(UserError, match=r"test item 1 is another image than before; give a transform without"):
        split.read([1])


FILE = """
from torch.utils.data import TensorDataset
import torch

def make(part, count=6):
    if part == "validation":
        return None
    return TensorDataset(torch.arange(count * 192).view(count, 3, 8, 8) / (count * 192), torch.arange(count) % 3)

def broken(part):
    raise RuntimeError("out of order")
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / f"data_{tmp_path.name}.py"
    path.write_text(FILE)
    return path


def test_a_function_in_a_file_gives_the_items_of_each_part(file):
    own = FileItems(source=f"{file}:make", classes=3, size=8, arguments={"count": 20})
    assert [len(own.split(part)) for part in ("train", "validation", "test")] == [18, 2, 20]
    assert own.split("test").read([4]).y.tolist() == [1]


@pytest.mark.parametrize(
    ("source", "arguments", "said"),
    [
        ("{file}:broken", {}, r"broken\('test'\) of .*\.py fails \(RuntimeError: out of order\)"),
        ("{file}:mak", {}, "has no function mak; it has make, broken"),
        ("{file}:make", {"cont": 1}, "fails .*cont"),
        ("{file}", {}, "dataset.source=.* must read path/to/file.py:function"),
        ("/nowhere/data.py:make", {}, "there is no file /nowhere/data.py"),
    ],
)
def test_what_does_not_work_is_said_in_one_line(file, source, arguments, said):
    own = FileItems(source=source.format(file=file), classes=3, size=8, arguments=arguments)
    with pytest.raises(UserError, match=said) as caught:
        own.split("test")
    assert "\n" not in str(caught.value)


def test_a_typed_file_is_trusted_and_another_is_not(file):
    words = by_file([f"dataset={file}:make", "model=net.py:make", "dataset.size=8"])
    assert words == [
        "dataset.size=8", "model=file", "model.source=net.py:make", "dataset=file", f"dataset.source={file}:make",
        f"trusted_packages=[net.py,{file}]",
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"dataset runs code of .*\.py; if you trust it, add 'trusted_packages="):
        check_code_file("dataset", {"_target_": "gauntlet.data.file_items.FileItems", "source": f"{file}:make"}, [])


class Failing(list):
    def __getitem__(self, row):
        raise RuntimeError("the disk\nis gone")


@pytest.mark.parametrize(
    ("items", "said"),
    [
        (3, r"the test items are a int, which has no length"),
        (Failing([0]), r"test item 0 cannot be read \(RuntimeError: the disk\)"),
        ([torch.rand(3, 8, 8)], "test item 0 is a Tensor, no pair"),
        ([("a.png", 0)], "type str; give a tensor"),
        ([(torch.rand(8, 8, 3), 0)], r"an image \[H, W, C\], \[8, 8, 3\]; give \[C, H, W\]"),
        ([(torch.rand(8, 8), 0)], r"shape \[8, 8\]; give \[C, H, W\]"),
        ([(torch.rand(3, 9, 9), 0)], r"9x9x3 \(height, width, channels\), not 8x8x3"),
        ([(torch.rand(1, 8, 8), 0)], "8x8x1"),
        ([(torch.rand(3, 8, 8) * 255, 0)], "divide by 255"),
        ([(torch.randn(3, 8, 8), 0)], "put any normalization into the model"),
        ([(torch.full((3, 8, 8), torch.nan), 0)], "pixels from nan to nan"),
        ([(torch.ones(3, 8, 8, dtype=torch.int64), 0)], "pixels of type int64"),
        ([(torch.rand(3, 8, 8), torch.ones(3))], "of type Tensor; give its class number"),
        ([(torch.rand(3, 8, 8), 1.0)], "the label 1.0 of type float"),
        ([(torch.rand(3, 8, 8), True)], "the label True of type bool"),
        ([(torch.rand(3, 8, 8), 2**70)], "give class numbers from 0"),
        ([(torch.rand(3, 8, 8), 3)], r"label 3, not one of 0 to 2"),
        ([(torch.rand(3, 8, 8), 0), (torch.ones(3, 8, 8, dtype=torch.uint8), 0)], "another type than the items before"),
        ([], "holds no images"),
    ],
)
def test_what_is_no_item_is_one_line(items, said):
    with pytest.raises(UserError, match=said) as caught:
        data(items).split("test")
    assert "\n" not in str(caught.value)
