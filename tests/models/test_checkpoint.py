"""Weights come back as they went, whatever the file; what is not a checkpoint of the model is refused in one line."""

import errno
import hashlib
import os
import struct
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from gauntlet.errors import UserError
from gauntlet.models import checkpoint
from gauntlet.models.preact_resnet import PreActResNet
from gauntlet.models.small_cnn import SmallCNN


def drawn(seed, **changes):
    torch.manual_seed(seed)
    model = SmallCNN(**{"classes": 10, "channels": 1, "size": 8, "width": 4, **changes})
    model(torch.rand(8, 1, 8, 8))
    return model


@pytest.fixture
def trained():
    return drawn(0)


@pytest.fixture
def fresh():
    return drawn(1)


def refusal(path):
    """The one line with which the file is refused; the model stays as it was."""
    model = drawn(1)
    before = checkpoint.digest(model)
    with pytest.raises(UserError) as caught:
        checkpoint.load(model, path)
    assert checkpoint.digest(model) == before
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_round_trip(trained, fresh, tmp_path):
    path = tmp_path / "deep" / "down" / "weights.safetensors"
    saved = checkpoint.save(trained, path, {"recipe": "pgd_at", "note": "ünïcode"})
    assert checkpoint.load(fresh, path) == saved == checkpoint.digest(trained) == checkpoint.digest(fresh)
    assert same(trained, fresh)
    assert checkpoint.read_metadata(path) == {"recipe": "pgd_at", "note": "ünïcode"}
    assert [p.name for p in path.parent.iterdir()] == ["weights.safetensors"]


@pytest.mark.parametrize(
    "wrapper", [None, "state_dict", "model", "model_state_dict", "ema", "net", "params", "weights"]
)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod.model."])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_formats_wrappers_and_prefixes(trained, fresh, tmp_path, wrapper, prefix, kind):
    state = OrderedDict((prefix + name, value) for name, value in trained.state_dict().items())
    path = tmp_path / "weights"
    if kind == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        content = {wrapper: state, "epoch": 3, "optimizer": {"lr": 0.1}} if wrapper else state
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    assert checkpoint.load(fresh, path) == checkpoint.digest(trained)
    assert same(trained, fresh)
    assert checkpoint.read_metadata(path) == {}


def test_wrapped_models_have_the_digest_of_the_bare_one(trained, fresh, tmp_path):
    wrapped = nn.DataParallel(trained)
    assert checkpoint.digest(wrapped) == checkpoint.digest(trained)
    checkpoint.save(wrapped, tmp_path / "w", {})
    assert checkpoint.load(fresh, tmp_path / "w") == checkpoint.digest(trained)
    assert checkpoint.load(nn.DataParallel(drawn(2)), tmp_path / "w") == checkpoint.digest(trained)


def test_a_prefix_that_only_some_names_have_stays(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.head = nn.Linear(2, 2), nn.Linear(2, 2)

    one, other = Two(), Two()
    checkpoint.save(one, tmp_path / "w", {})
    assert checkpoint.load(other, tmp_path / "w") == checkpoint.digest(one)
    torch.save({f"model.{name}": value for name, value in one.state_dict().items()}, tmp_path / "p")
    assert checkpoint.load(Two(), tmp_path / "p") == checkpoint.digest(one)


def test_digest_tells_models_apart(trained):
    digests = {checkpoint.digest(trained)}
    for name, value in trained.state_dict().items():
        if value.is_floating_point():
            value.view(-1)[-1] += 1e-3
            digests.add(checkpoint.digest(trained))
            assert name
    assert len(digests) == 1 + sum(v.is_floating_point() for v in trained.state_dict().values())
    assert checkpoint.digest(nn.Linear(2, 3)) != checkpoint.digest(nn.Linear(2, 3).double())
    flat, tall = nn.Linear(4, 1, bias=False), nn.Linear(1, 4, bias=False)
    tall.weight.data = flat.weight.data.reshape(4, 1)
    assert checkpoint.digest(flat) != checkpoint.digest(tall)


def test_digest_does_not_depend_on_memory_format_or_mode(trained):
    before = checkpoint.digest(trained)
    assert checkpoint.digest(trained.to(memory_format=torch.channels_last).eval()) == before
    assert before.startswith("sha256:")
    assert len(before) == 71


def test_digest_as_it_is_described():
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0]]))
        model.bias.fill_(0.5)
    content = b'["bias", "float32", [1]]' + struct.pack("<f", 0.5)
    content += b'["weight", "float32", [1, 2]]' + struct.pack("<2f", 1, -2)
    assert checkpoint.digest(model) == f"sha256:{hashlib.sha256(content).hexdigest()}"


def test_half_precision_files_are_loaded_into_the_types_of_the_model(trained, fresh, tmp_path):
    safetensors.torch.save_model(trained.half(), tmp_path / "w")
    checkpoint.load(fresh, tmp_path / "w")
    assert fresh.head[1].weight.dtype == torch.float32
    assert torch.equal(fresh.head[1].weight, trained.head[1].weight.float())


def test_old_files_without_batch_counters(trained, fresh, tmp_path):
    torch.save({k: v for k, v in trained.state_dict().items() if "num_batches" not in k}, tmp_path / "w")
    checkpoint.load(fresh, tmp_path / "w")
    assert fresh.stem[1].num_batches_tracked == 0
    assert torch.equal(fresh.stem[1].running_mean, trained.stem[1].running_mean)


def test_tied_weights(tmp_path):
    def tied():
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    one, other = tied(), tied()
    checkpoint.save(one, tmp_path / "w", {})
    assert checkpoint.load(other, tmp_path / "w") == checkpoint.digest(one)


def test_one_name_of_tied_weights_is_enough(tmp_path):
    def tied():
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    one, other = tied(), tied()
    safetensors.torch.save_model(one, tmp_path / "w")
    assert len(safetensors.torch.load_file(tmp_path / "w")) == 3
    assert checkpoint.load(other, tmp_path / "w") == checkpoint.digest(one)
    with pytest.raises(UserError, match="another model: missing"):
        checkpoint.load(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), tmp_path / "w")


@pytest.mark.parametrize(
    "foreign", ["criterion.weight", "n_averaged", "module.criterion.center", "loss_fn.weight", "criterion.model.x"]
)
@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_what_training_leaves_beside_the_weights_does_not_matter(trained, fresh, tmp_path, foreign, prefix):
    state = {prefix + name: value for name, value in trained.state_dict().items()}
    torch.save({**state, foreign: torch.tensor(3)}, tmp_path / "w")
    assert checkpoint.load(fresh, tmp_path / "w") == checkpoint.digest(trained)


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_a_foreign_name_is_named_alone(trained, tmp_path, prefix):
    state = {prefix + name: value for name, value in trained.state_dict().items()}
    torch.save({**state, f"{prefix}teacher.weight": torch.ones(2)}, tmp_path / "w")
    assert f"{tmp_path / 'w'} is of another model: unexpected {prefix}teacher.weight; choose" in refusal(tmp_path / "w")


@pytest.mark.parametrize("kind", [True, False])
def test_numbers_beside_the_weights_do_not_matter(trained, fresh, tmp_path, kind):
    beside = {"acc": np.float64(0.9), "epoch": np.int64(3), "best": 0.5, "name": "cnn", "mean": torch.zeros(3)}
    for content in ({"net": trained.state_dict(), **beside}, {**trained.state_dict(), "acc": np.float32(0.9)}):
        torch.save(content, tmp_path / "w", _use_new_zipfile_serialization=kind)
        assert checkpoint.load(fresh, tmp_path / "w") == checkpoint.digest(trained)


def test_of_two_sets_of_weights_one_has_to_be_chosen(trained, fresh, tmp_path):
    ema = {name: value + 1 for name, value in trained.state_dict().items()}
    torch.save({"state_dict": trained.state_dict(), "ema": ema, "optimizer": {"ema": ema}}, tmp_path / "w")
    assert "holds 2 sets of weights: state_dict, ema; say which one is meant" in refusal(tmp_path / "w")
    torch.save({"state_dict": trained.state_dict(), "last": {"net": trained.state_dict()}}, tmp_path / "w")
    assert checkpoint.load(fresh, tmp_path / "w") == checkpoint.digest(trained)


def test_another_model(tmp_path):
    torch.save(PreActResNet(10, width=4).state_dict(), tmp_path / "w")
    message = refusal(tmp_path / "w")
    assert "missing stem.0.weight, stem.1.weight, stem.1.bias and " in message
    assert "unexpected stem.weight, layer1.0.norm1.weight, layer1.0.norm1.bias and " in message
    torch.save(drawn(0, width=8).state_dict(), tmp_path / "w")
    assert "stem.0.weight is [8, 1, 3, 3], not [4, 1, 3, 3] and " in refusal(tmp_path / "w")


def test_one_name_too_many_or_too_few(tmp_path, trained):
    state = trained.state_dict()
    torch.save({**state, "fc.weight": torch.zeros(1)}, tmp_path / "w")
    assert "another model: unexpected fc.weight; choose" in refusal(tmp_path / "w")
    del state["head.1.bias"]
    torch.save(state, tmp_path / "w")
    assert "another model: missing head.1.bias; choose" in refusal(tmp_path / "w")


def test_another_number_of_classes(tmp_path):
    torch.save(drawn(0, classes=100).state_dict(), tmp_path / "w")
    assert "the checkpoint has 100 classes, the model has 10;" in refusal(tmp_path / "w")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tmp_path, trained, value):
    trained.layer1[1].running_var[2] = value
    checkpoint.save(trained, tmp_path / "w", {})
    assert "layer1.1.running_var holds NaN or infinite values" in refusal(tmp_path / "w")


def test_values_that_the_type_of_the_model_cannot_hold(tmp_path, trained):
    state = {
        name: value.double() if value.is_floating_point() else value for name, value in trained.state_dict().items()
    }
    state["head.1.bias"][0] = 1e300
    torch.save(state, tmp_path / "w")
    assert "head.1.bias holds NaN or infinite values" in refusal(tmp_path / "w")


def test_quantised_weights(tmp_path, trained):
    torch.save({**trained.state_dict(), "head.1.bias": torch.zeros(10, dtype=torch.int8)}, tmp_path / "w")
    assert "head.1.bias is torch.int8, the model needs torch.float32" in refusal(tmp_path / "w")


@pytest.mark.parametrize(("number", "message"), [(errno.ENOSPC, "no space left for"), (errno.EROFS, "cannot write")])
def test_a_full_disk_keeps_the_file_that_was_there(tmp_path, trained, fresh, monkeypatch, number, message):
    path = tmp_path / "weights.safetensors"
    before = checkpoint.save(trained, path, {})

    def full(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=message):
        checkpoint.save(fresh, path, {})
    assert checkpoint.load(fresh, path) == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_place_that_cannot_be_written(tmp_path, trained):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        checkpoint.save(trained, tmp_path / "file" / "weights", {})


def test_every_public_network_loads_strictly(shared, monkeypatch):
    monkeypatch.syspath_prepend(str(shared / "models"))
    networks = pytest.importorskip("networks")
    name = "at_resnet2b"
    expected = networks.load(name)
    network = networks.NETWORKS[name]()
    assert checkpoint.load(network[1], shared / "models" / f"{name}.safetensors") == checkpoint.digest(expected[1])
    assert same(network, expected)
