"""Reading in the background gives what reading gives, in order, one batch ahead, and errors in their turn."""

import threading

import pytest
import torch

from gauntlet.data.dataset import Batch
from gauntlet.data.imagefolder import ImageFolder
from gauntlet.data.parquet import Parquet
from gauntlet.data.prefetch import batches
from gauntlet.errors import UserError

PIECES = [slice(0, 7), slice(21, 28), slice(7, 14), slice(28, 30)]


@pytest.fixture(scope="module")
def splits(tmp_path_factory, pictures, png, write_parquet, write_folder):
    folder, images = tmp_path_factory.mktemp("ahead"), pictures(30)
    write_parquet(folder / "test.parquet", [png(image) for image in images], [n % 10 for n in range(30)], group=6)
    write_folder(folder / "folder" / "test", {"a": images[:20], "b": images[20:]})
    return [
        Parquet(path=str(folder), size=8).split("test"),
        ImageFolder(path=str(folder / "folder"), classes=2, size=8).split("test"),
    ]


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("kind", [0, 1])
def test_the_batches_are_those_that_reading_gives(splits, kind, workers):
    split = splits[kind]
    found = list(batches(split, PIECES, workers))
    assert len(found) == len(PIECES)
    for piece, batch in zip(PIECES, found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(batch, split.read(piece), strict=True))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_nothing_to_read_gives_nothing(splits, workers):
    assert list(batches(splits[0], [], workers)) == []


class Told:
    """A split that tells when it is read."""

    def __init__(self, bad=()):
        self.asked, self.bad, self.event = [], bad, threading.Event()

    def read(self, positions, spread=map):
        self.asked.append(positions.start)
        self.event.set()
        if positions.start in self.bad:
            raise UserError(f"row {positions.start} is broken")
        rows = torch.tensor(list(spread(lambda n: n, range(positions.start, positions.stop))))
        return Batch(rows, rows, rows)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_next_batch_is_read_while_this_one_is_at_work_and_none_after_it(workers):
    split = Told()
    reader = batches(split, [slice(n, n + 1) for n in range(5)], workers)
    for n in range(5):
        split.event.clear()
        assert next(reader).ids.tolist() == [n]
        if n < 4:
            while len(split.asked) < n + 2:  # the reader is at work while this thread does something else
                assert split.event.wait(60)
        assert split.asked == list(range(min(n + 2, 5)))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_error_comes_in_its_turn(workers):
    reader = batches(Told(bad=[2]), [slice(n, n + 1) for n in range(5)], workers)
    assert [next(reader).ids.item() for _ in range(2)] == [0, 1]
    with pytest.raises(UserError, match="row 2 is broken"):
        next(reader)


@pytest.mark.parametrize("workers", [1, 3])
def test_no_thread_outlives_a_reader_that_is_given_up(workers):
    before = threading.active_count()
    reader = batches(Told(), [slice(n, n + 1) for n in range(5)], workers)
    next(reader)
    reader.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_named_after_the_batches_before_it(tmp_path, pictures, png, write_parquet, workers):
    data = [png(image) for image in pictures(30)]
    data[17] = data[17][:40]
    write_parquet(tmp_path / "test.parquet", data, [0] * 30, group=10)
    reader = batches(Parquet(path=str(tmp_path), size=8).split("test"), [slice(0, 10), slice(10, 20)], workers)
    assert len(next(reader).ids) == 10
    with pytest.raises(UserError, match=r"test\.parquet, row 17: the image cannot be decoded"):
        next(reader)
