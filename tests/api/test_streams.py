"""Images that come one after the other are taken in every layout, held in memory or read again, and the same then."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from gauntlet.api import streams
from gauntlet.api.inputs import InputError
from gauntlet.api.streams import is_stream, stream
from gauntlet.data.given import arrays_of
from gauntlet.data.stream_rows import StreamRows
from gauntlet.errors import UserError

X = torch.rand(10, 3, 8, 8, generator=torch.Generator().manual_seed(0))
EIGHT_BIT = (X * 255).round() / 255
Y = torch.arange(10) % 3
SIZES = ((0, 4), (4, 8), (8, 10))


class Items(IterableDataset):
    """Gives what a function makes, each time anew."""

    def __init__(self, make):
        self.make = make

    def __iter__(self):
        return iter(self.make())


class Length:
    """A set that is no one's subclass, as those of the package datasets."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, number):
        return self.items[number]


def batches(x):
    return [(x[low:high], Y[low:high]) for low, high in SIZES]


def pillow(x):
    return [{"image": Image.fromarray(each), "label": int(y)} for each, y in zip(levels(x), Y, strict=True)]


def levels(x):
    return (x * 255).round().byte().permute(0, 2, 3, 1).numpy()


FORMS = {
    "pairs": lambda x: Items(lambda: list(zip(x, Y, strict=True))),
    "batches of a pipeline": lambda x: Items(lambda: batches(x)),
    "batches of arrays": lambda x: Items(lambda: [(a.numpy(), b.numpy()) for a, b in batches(x)]),
    "batches of lists": lambda x: Items(lambda: [[list(a), b.tolist()] for a, b in batches(x)]),
    "mappings": lambda x: Items(lambda: [{"__key__": "k", "jpg": a, "cls": b} for a, b in batches(x)]),
    "pictures": lambda x: Length(pillow(x)),
    "a loader": lambda x: DataLoader(TensorDataset(x, Y), batch_size=4),
    "a loader of mappings": lambda x: DataLoader(
        Length([{"x": each, "y": y} for each, y in zip(x, Y, strict=True)]), batch_size=4
    ),
    "a generator": lambda x: zip(x, Y, strict=True),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("x", [EIGHT_BIT, X], ids=["levels", "floats"])
def test_every_layout_gives_the_arrays(form, x, monkeypatch):
    if form == "pictures" and x is X:
        pytest.skip("pictures have levels")
    wanted = arrays_of(x, Y.numpy())
    found = stream(FORMS[form](x), None)
    assert found.digest() == wanted.digest()
    assert found.levels == wanted.levels
    assert np.array_equal(found.pixels, wanted.pixels)
    if form == "a generator":
        return
    monkeypatch.setattr(streams, "MOST_BYTES", 500)
    rows = stream(FORMS[form](x), None)
    assert isinstance(rows, StreamRows)
    assert (rows.digest(), rows.levels, rows.reading()) == (wanted.digest(), wanted.levels, wanted.reading())
    assert rows.labels.tolist() == Y.tolist()
    for asked in ([0, 1], [5, 3, 3], [9], [0, 9], list(range(10))):
        assert np.array_equal(rows.images(np.array(asked)), wanted.images(np.array(asked)))


def test_a_limit_cuts_batches_and_endless_streams():
    def endless():
        while True:
            yield X[:4], Y[:4]

    found = stream(Items(endless), 7)
    assert np.array_equal(found.labels, [0, 1, 2, 0, 0, 1, 2])


def test_what_can_be_read_once_is_taken_where_it_fits_memory_alone(monkeypatch):
    monkeypatch.setattr(streams, "MOST_BYTES", 1000)
    with pytest.raises(
        InputError, match="the zip can be read once, and its images take more than 0 MiB; give a Dataset"
    ):
        stream(zip(X, Y, strict=True), None)


def test_another_order_or_another_image_is_refused(monkeypatch):
    monkeypatch.setattr(streams, "MOST_BYTES", 500)
    with pytest.raises(InputError, match=r"image \d of the DataLoader is another than before; .*no shuffling"):
        stream(DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True), None)
    items = [X.clone(), Y.clone()]
    rows = stream(Items(lambda: [tuple(items)]), None)
    items[0][3] = 0
    with pytest.raises(UserError, match="image 3 of the Items is another than before"):
        rows.images(np.array([4]))
    items[0], items[1] = X[:5], Y[:5]
    with pytest.raises(UserError, match="ends after 5 images, and had 10 before"):
        rows.images(np.array([7]))


WRONG = {
    "text for an image": ([("name", 3)], "gives images of type str"),
    "text for a label": ([(X[0], "cat")], "gives labels of type str; let it give class numbers"),
    "other keys": ([{"picture": X[0], "label": 1}], "a mapping with picture, label, which has no image or no label"),
    "fewer labels": ([(X, Y[:3])], "gives 10 images with 3 labels"),
    "levels": ([(levels(X)[0], 1)], "divide|type uint8|channels"),
    "sizes": ([(X[0], 0), (X[1, :, :4, :4], 1)], r"different sizes, \(3, 4, 4\) and \(3, 8, 8\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_items_that_cannot_be_are_named(case):
    items, line = WRONG[case]
    with pytest.raises(InputError, match=line) as caught:
        stream(Items(lambda: items), None)
    assert "\n" not in str(caught.value)


def test_tensors_and_arrays_are_no_streams():
    assert not any(map(is_stream, (X, X.numpy(), list(X), "digits", {"x": X})))
    assert is_stream(zip(X, Y, strict=True))


@pytest.mark.filterwarnings("ignore")  # of the package, which leaves files open
def test_a_web_loader_gives_what_is_in_its_files(tmp_path):
    web = pytest.importorskip("webdataset")
    with tarfile.open(tmp_path / "part.tar", "w") as tar:
        for number, (image, y) in enumerate(zip(levels(EIGHT_BIT), Y, strict=True)):
            data = io.BytesIO()
            Image.fromarray(image).save(data, "PNG")
            for ending, content in (("png", data.getvalue()), ("cls", str(int(y)).encode())):
                entry = tarfile.TarInfo(f"{number:03d}.{ending}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    files = web.WebDataset(str(tmp_path / "part.tar"), shardshuffle=False).decode("torchrgb")
    pairs, wanted = files.to_tuple("png", "cls"), arrays_of(EIGHT_BIT, Y.numpy()).digest()
    assert stream(pairs, None).digest() == wanted
    assert stream(pairs.batched(4), None).digest() == wanted
    assert stream(files, None).digest() == wanted
    assert stream(web.WebLoader(pairs.batched(4), batch_size=None, num_workers=0), None).digest() == wanted
    assert stream(web.WebLoader(pairs, batch_size=4, num_workers=0), None).digest() == wanted
