"""Random crops and mirror images."""

import torch
import torch.nn.functional as F

from gauntlet.training.augmentation import augment


def test_off_is_nothing(batch, rng):
    assert augment(batch.x, rng, crop=0, flip=False) is batch.x


def test_each_crop_is_a_window_of_the_padded_image(batch, rng):
    moved = augment(batch.x, rng, crop=2, flip=False)
    padded = F.pad(batch.x, (2, 2, 2, 2))
    windows = padded.unfold(2, 8, 1).unfold(3, 8, 1)  # [B, 1, 5, 5, 8, 8]
    matches = (windows == moved[:, :, None, None]).all(-1).all(-1).flatten(1)
    assert matches.any(1).all()
    assert len(set(matches.float().argmax(1).tolist())) > 10


def test_some_images_are_mirrored_whole(batch, rng):
    moved = augment(batch.x, rng, crop=0, flip=True)
    same = (moved == batch.x).flatten(1).all(1)
    mirrored = (moved == batch.x.flip(3)).flatten(1).all(1)
    assert (same | mirrored).all()
    assert 8 < mirrored.sum() < 24


def test_a_sample_is_moved_alike_in_any_batch(batch, rng):
    some = torch.tensor([7, 3])
    whole = augment(batch.x, rng, crop=2, flip=True)
    assert torch.equal(augment(batch.x[some], rng.select(some), crop=2, flip=True), whole[some])
    assert not torch.equal(augment(batch.x, rng.stream("next epoch"), crop=2, flip=True), whole)
