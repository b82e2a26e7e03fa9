"""A training set that is cut by content: what one image more or less can reach."""

import numpy as np
import pytest
import torch

from gauntlet.data.dataset import Batch
from gauntlet.data.partitions import HASHES, BucketedTrainingSet, Buckets
from gauntlet.errors import UserError


class Given:
    """A data set whose parts are one split, of images in bytes."""

    name, classes, channels, size = "given", 3, 1, 2
    budgets = {"linf": 0.1}  # noqa: RUF012

    def __init__(self, pixels, labels):
        self.x = torch.tensor(pixels, dtype=torch.float32).reshape(-1, 1, 2, 2) / 255
        self.y = torch.tensor(labels)
        self.ids = np.arange(len(labels))

    def __len__(self):
        return len(self.y)

    def split(self, part):
        return self

    def read(self, positions, spread=map):
        at = torch.arange(len(self))[positions]
        return Batch(at, self.x[at], self.y[at])


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (60, 4)), rng.integers(0, 3, 60)


def shares(pixels, labels, buckets):
    cut = BucketedTrainingSet(Given(pixels, labels), buckets)
    return [cut.of_network(number).split("train") for number in range(buckets.count)]


def test_the_bucket_of_an_image_is_the_sum_of_its_pixels(images):
    pixels, labels = images
    x = Given(pixels, labels).x
    assert Buckets(7).of_images(x).tolist() == (pixels.sum(1) % 7).tolist()
    assert Buckets(3, 2).of_images(x).tolist() == (pixels.sum(1) % 6).tolist()


@pytest.mark.parametrize("buckets", [Buckets(5), Buckets(4, 3)])
def test_every_bucket_trains_as_many_networks_and_every_network_sees_as_many_buckets(buckets):
    reached = buckets.reached
    assert reached.shape == (buckets.count, buckets.copies)
    assert all(len(set(row)) == buckets.copies for row in reached.tolist())
    for network in range(buckets.count):
        mine = set(buckets.of_network(network).tolist())
        assert mine == {bucket for bucket in range(buckets.count) if network in reached[bucket]}
    assert Buckets(5).reached.ravel().tolist() == [0, 1, 2, 3, 4]


def test_shares_are_disjoint_and_complete_or_overlap_as_often_as_there_are_copies(images):
    assert sum(len(share) for share in shares(*images, Buckets(4))) == 60
    assert sum(len(share) for share in shares(*images, Buckets(4, 3))) == 3 * 60


def test_a_hash_of_the_content_is_even_where_sums_are_not():
    """Images of two levels whose sums are multiples of 16 all fall into one of 16 buckets."""
    rng = np.random.default_rng(3)
    x = torch.from_numpy(rng.choice([0, 16], (800, 1, 4, 4))).float() / 255
    by_sum, by_content = (np.bincount(Buckets(16, 1, hashed).of_images(x), minlength=16) for hashed in HASHES)
    assert by_sum.max() == 800
    assert by_content.min() > 20
    assert by_content.max() < 90


@pytest.mark.parametrize("buckets", [Buckets(4), Buckets(3, 2)])
def test_one_change_reaches_the_networks_of_one_bucket_whatever_the_order(images, buckets):
    pixels, labels = images
    before = [share.digest() for share in shares(pixels, labels, buckets)]
    order = np.random.default_rng(1).permutation(60)
    assert [share.digest() for share in shares(pixels[order], labels[order], buckets)] == before
    other = labels.copy()
    other[7] = (other[7] + 1) % 3
    more = np.concatenate([[[9, 8, 7, 6]], pixels])
    changes = {
        int(pixels[3].sum()): (np.delete(pixels, 3, 0), np.delete(labels, 3)),
        int(pixels[7].sum()): (pixels, other),
        30: (more, np.concatenate([[2], labels])),
    }
    for total, (changed, said) in changes.items():
        after = [share.digest() for share in shares(changed, said, buckets)]
        differ = {number for number, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]}
        assert differ == set(buckets.reached[total % buckets.count].tolist())


def test_what_a_network_reads_depends_on_content_alone(images):
    pixels, labels = images
    order = np.random.default_rng(2).permutation(60)
    for one, two in zip(shares(*images, Buckets(4)), shares(pixels[order], labels[order], Buckets(4)), strict=True):
        first, second = one.read(slice(0, len(one))), two.read([*range(len(two))])
        assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
        assert one.ids.tolist() == list(range(len(one)))


def test_a_share_is_read_once_until_it_is_released(images):
    given, asked = Given(*images), []
    read = given.read
    given.read = lambda positions, spread=map: asked.append(len(asked)) or read(positions)
    share = BucketedTrainingSet(given, Buckets(4)).of_network(0)
    asked.clear()
    first = share.split("train").read([0, 1])
    share.split("validation").read([0])
    assert len(asked) == 1
    share.release()
    assert torch.equal(share.split("train").read([0, 1]).x, first.x)
    assert len(asked) == 2


def test_a_share_too_small_to_train_is_named(images):
    pixels, labels = images
    with pytest.raises(UserError, match=r"would be trained on [01] images; take fewer partitions"):
        shares(pixels[:4], labels[:4], Buckets(8))
