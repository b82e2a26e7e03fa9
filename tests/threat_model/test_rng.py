import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gauntlet.threat_model.rng import Rng, philox

FULL = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the known answers that come with the definition of Philox4x32-10
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((FULL,) * 4, (FULL, FULL), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers(counter, key, expected):
    words = philox(tuple(torch.tensor([word]) for word in counter), key)
    assert tuple(int(word) for word in words) == expected


@settings(deadline=None, max_examples=30)
@given(ids=st.lists(st.integers(0, 2**62), min_size=2, max_size=8, unique=True), data=st.data())
def test_a_draw_does_not_depend_on_batch_mates(ids, data):
    chosen = data.draw(st.permutations(range(len(ids))))[: data.draw(st.integers(1, len(ids)))]
    rng = Rng(3, torch.tensor(ids), "start")
    whole, part = rng.uniform((2, 3)), rng.select(torch.tensor(chosen)).uniform((2, 3))
    assert torch.equal(whole[chosen], part)


def test_seed_stream_sample_draw_and_shape_separate_the_draws():
    ids = torch.arange(3)
    one = Rng(0, ids).uniform((5,))
    others = [
        Rng(1, ids).uniform((5,)),
        Rng(0, ids).stream("a").uniform((5,)),
        Rng(0, ids + 1).uniform((5,)),
        Rng(0, ids).uniform((5,), draw=1),
    ]
    assert not any(torch.equal(one, other) for other in others)
    assert torch.equal(one, Rng(0, ids).uniform((9,))[:, :5])  # a longer draw goes on where the shorter ends


def test_moments():
    rng = Rng(0, torch.arange(64))
    unit, gauss = rng.uniform((4096,), -1, 3), rng.normal((4096,))
    assert unit.min() >= -1
    assert unit.max() < 3
    assert unit.mean().item() == pytest.approx(1, abs=0.01)
    assert gauss.mean().item() == pytest.approx(0, abs=0.01)
    assert gauss.std().item() == pytest.approx(1, abs=0.01)
    assert gauss.pow(4).mean().item() == pytest.approx(3, abs=0.1)
    counts = rng.integers((4096,), 5).flatten().bincount()
    assert (counts / counts.sum() - 0.2).abs().max() < 0.005


def test_float32_and_float64_hold_the_same_values():
    rng = Rng(5, torch.arange(4))
    assert torch.equal(rng.uniform((7,)).double(), rng.uniform((7,), dtype=torch.float64))


def test_the_global_stream_is_left_alone():
    before = torch.get_rng_state()
    Rng(0, torch.arange(4)).normal((3,))
    assert torch.equal(before, torch.get_rng_state())
