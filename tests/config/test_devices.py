"""Accelerators are taken in one order, shared out among workers, and left for the CPU with one line."""

import multiprocessing

import pytest
import torch

from gauntlet.config import devices
from gauntlet.config.runtime import Runtime
from gauntlet.errors import UserError


@pytest.fixture
def machine(monkeypatch):
    """Pretends that the machine has so many devices of each kind, all of which work unless they are unfit."""

    def has(unfit=(), **counts):
        monkeypatch.setattr(devices, "count", lambda kind: counts.get(kind, 0))
        monkeypatch.setattr(devices, "_unfit", lambda name: "no float64" if name in unfit else "")
        devices._best_kind.cache_clear()
        devices._warn.cache_clear()

    yield has
    devices._best_kind.cache_clear()
    devices._warn.cache_clear()


@pytest.mark.parametrize(
    ("counts", "found"),
    [
        ({}, "cpu"),
        ({"mps": 1}, "mps"),
        ({"xpu": 2, "mps": 1}, "xpu"),
        ({"cuda": 1, "xpu": 2}, "cuda"),
    ],
)
def test_auto_takes_cuda_before_xpu_before_mps(machine, counts, found):
    machine(**counts)
    assert Runtime().torch_device() == torch.device(found)


def test_what_cannot_judge_is_left_with_one_line(machine, caplog):
    machine(mps=1, unfit=["mps"])
    assert Runtime().torch_device() == torch.device("cpu")
    (line,) = caplog.messages
    assert line == "there is a device mps, but it cannot be used (no float64); using the CPU"


def test_a_device_without_float64_is_refused_by_its_name(monkeypatch):
    made = torch.zeros

    def without(*size, dtype=None, **options):
        if dtype is torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype\nas it does not support it")
        return made(*size, dtype=dtype, **options)

    monkeypatch.setattr(torch, "zeros", without)
    with pytest.raises(
        UserError, match=r"runtime.device=cpu cannot be used .*float64.*; use runtime.device=cpu or auto"
    ):
        Runtime(device="cpu").torch_device()


def test_all_are_those_of_the_best_kind(machine, caplog):
    machine(cuda=3, xpu=2)
    assert Runtime(devices="all").every_device() == ["cuda:0", "cuda:1", "cuda:2"]
    machine(mps=1)
    assert Runtime(devices="all").every_device() == ["mps"]
    machine()
    assert Runtime(devices="all").every_device() == ["cpu"]
    assert caplog.messages == ["runtime.devices=all finds no accelerator here; using the CPU"]


@pytest.mark.parametrize(("number", "found"), [(1, "cuda:0"), (2, "cuda:1"), (3, "cuda:0"), (12, "cuda:1")])
def test_a_worker_of_joblib_takes_its_own(machine, monkeypatch, number, found):
    machine(cuda=2)
    monkeypatch.setattr(multiprocessing.current_process(), "_name", f"LokyProcess-{number}")
    assert torch.device("cuda", Runtime().torch_device().index or 0) == torch.device(found)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device": "cuda:99"}, "runtime.device=cuda:99 is not there; use runtime.device=cpu or auto"),
        ({"device": "meta"}, "runtime.device=meta is not there"),
        ({"devices": ["cpu", "cuda:99"]}, "runtime.devices=cuda:99 is not there"),
        ({"devices": "nowhere"}, "runtime.devices=nowhere is not there"),
    ],
)
def test_what_is_not_there_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        Runtime(**options).torch_device()


def test_one_device_or_several():
    with pytest.raises(UserError, match="give one of the two"):
        Runtime(device="cpu", devices=["cpu"])
    with pytest.raises(UserError, match="names no device"):
        Runtime(devices=[])
    assert Runtime(devices="cpu").every_device() == ["cpu"]
