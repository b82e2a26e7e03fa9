"""Arrays in files become their images, whatever the format and the layout; the rest is refused in one line."""

import numpy as np
import pytest
import safetensors.numpy
import torch

from gauntlet.data.array_files import ArrayFiles
from gauntlet.errors import UserError

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 6, 6, 3), dtype=np.uint8)
LABELS = np.arange(12) % 4


def written(folder, ending, x, y):
    """The path and the fields of a data set of these arrays."""
    path = folder / f"data{ending}"
    if ending == ".npy":
        np.save(path, x)
        np.save(folder / "labels.npy", y)
        return {"path": str(path), "labels": str(folder / "labels.npy")}
    if ending == ".npz":
        np.savez(path, x=x, y=y)
    elif ending == ".pt":
        torch.save({"x": torch.from_numpy(x.copy()), "y": torch.from_numpy(y.copy())}, path)
    else:
        safetensors.numpy.save_file({"x": np.ascontiguousarray(x), "y": y}, path)
    return {"path": str(path)}


def dataset(fields, **more):
    return ArrayFiles(**({"classes": 4, "size": 6} | fields | more))


@pytest.mark.parametrize("ending", [".npy", ".npz", ".pt", ".safetensors"])
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
def test_every_format_gives_the_same_images(tmp_path, ending, layout, kind):
    x = PIXELS if kind == "uint8" else (PIXELS / 255).astype(kind)
    x = x.transpose(0, 3, 1, 2) if layout == "nchw" else x
    split = dataset(written(tmp_path, ending, x, LABELS)).split("test")
    batch = split.read(slice(2, 7))
    expected = torch.from_numpy(PIXELS[2:7].transpose(0, 3, 1, 2).copy()).float() / 255
    assert torch.equal(batch.x, expected)
    assert batch.x.is_contiguous()
    assert batch.y.tolist() == LABELS[2:7].tolist()
    assert batch.ids.tolist() == [2, 3, 4, 5, 6]


def test_the_digest_is_of_the_content(tmp_path):
    (tmp_path / "a").mkdir()
    one = dataset(written(tmp_path, ".npz", PIXELS, LABELS)).split("test").digest()
    assert dataset(written(tmp_path / "a", ".pt", PIXELS.transpose(0, 3, 1, 2), LABELS)).split("test").digest() == one
    changed = PIXELS.copy()
    changed[3, 2, 1, 0] ^= 1
    (tmp_path / "b").mkdir()
    assert dataset(written(tmp_path / "b", ".npz", changed, LABELS)).split("test").digest() != one


def test_grey_images_need_no_channel_axis(tmp_path):
    fields = written(tmp_path, ".npz", PIXELS[..., 0], LABELS)
    assert dataset(fields, channels=1).split("test").read([0]).x.shape == (1, 1, 6, 6)


def test_training_images_are_split_once(tmp_path):
    fields = written(tmp_path, ".npz", PIXELS, LABELS)
    data = dataset(fields, train=fields["path"])
    train, validation = data.split("train"), data.split("validation")
    assert sorted([*train.ids, *validation.ids]) == list(range(12))
    with pytest.raises(UserError, match=r"give dataset\.train=FILE"):
        dataset(fields).split("train")


@pytest.mark.parametrize(
    ("x", "y", "options", "said"),
    [
        (PIXELS.astype(np.float32), LABELS, {}, r"pixels from 0 to 255; store uint8"),
        (PIXELS / 255 - 0.5, LABELS, {}, "put any normalization into the model"),
        (np.full_like(PIXELS, 0.1, np.float32) * np.nan, LABELS, {}, "pixels that are NaN"),
        (PIXELS.astype(np.int64), LABELS, {}, "images of type int64"),
        (PIXELS[..., :2], LABELS, {}, "does not tell where the channels are"),
        (PIXELS[:, :3], LABELS, {}, "does not tell where the channels are"),
        (PIXELS.reshape(12, -1), LABELS, {}, r"shape \[12, 108\]"),
        (PIXELS, LABELS.astype(np.float32), {}, "labels of type float32"),
        (PIXELS, LABELS > 1, {}, "labels of type bool"),
        (PIXELS, np.eye(4)[LABELS], {}, r"labels of shape \[12, 4\]"),
        (PIXELS, LABELS + 1, {}, r"label 4, not one of 0 to 3"),
        (PIXELS, LABELS[:5], {}, "12 images and .* 5 labels"),
        (PIXELS, LABELS, {"size": 8}, r"6x6 pixels, not 8x8; set dataset\.size=6"),
        (PIXELS, LABELS, {"channels": 1}, r"set dataset\.channels=3"),
        (PIXELS, LABELS, {"x": "images"}, r"holds x, y, but no images; set dataset\.x and y"),
        (PIXELS, LABELS, {"layout": "chw"}, r"dataset\.layout='chw' is unknown"),
    ],
)
def test_what_is_no_image_with_a_label_is_refused(tmp_path, x, y, options, said):
    with pytest.raises(UserError, match=said):
        dataset(written(tmp_path, ".npz", x, y), **options).split("test")


@pytest.mark.parametrize("ending", [".npy", ".npz", ".pt", ".safetensors", ".csv"])
def test_damaged_missing_and_foreign_files_are_named(tmp_path, ending):
    path = tmp_path / f"data{ending}"
    with pytest.raises(UserError, match="there is no file"):
        dataset({"path": str(path)}).split("test")
    path.write_bytes(b"\x80not an array")
    with pytest.raises(UserError, match="data"):
        dataset({"path": str(path)}).split("test")


def test_no_code_of_a_file_is_run(tmp_path):
    path, trap = tmp_path / "x.npy", tmp_path / "ran"

    class Trap:
        def __reduce__(self):
            return trap.touch, ()

    np.save(path, np.array([Trap()], dtype=object), allow_pickle=True)
    torch.save({"x": Trap()}, tmp_path / "x.pt")
    for name in ("x.npy", "x.pt"):
        with pytest.raises(UserError):
            dataset({"path": str(tmp_path / name)}).split("test")
    assert not trap.exists()
