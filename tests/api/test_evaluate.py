"""`evaluate()` does what the command line does, on whatever the caller has, and leaves the caller's things alone."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from gauntlet import Threat, UserError, certify, evaluate
from gauntlet.api import streams
from gauntlet.config.shipped import CONF
from gauntlet.config.validate import build, checked
from gauntlet.data import stream_rows
from gauntlet.defenses.gaussian_smoothing import GaussianSmoothing
from gauntlet.evidence.digest import adversarial_digest
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.jobs import attack_job
from gauntlet.jobs.setup import KEYS
from tests.api.conftest import network

ROOT = Path(__file__).parents[2]
LINF = Threat("linf", 0.15)
FAST = {"threat": LINF, "attack": "pgd", "steps": 5}


def commanded(folder, *words):
    """A run of the command line's job."""
    with initialize_config_dir(CONF, version_base=None):
        cfg = compose("run", [*words, "runtime.progress=false", "runtime.device=cpu", f"runs_dir={folder}"])
    names = {word.partition("=")[0]: word.partition("=")[2] for word in words}
    return attack_job.evaluate(cfg, {"defense": "none", "model": "small_cnn", "attack": "pgd", **names}, "").run


def tables(run):
    return [table.to_pylist() for table in run.read_parts()]


def test_the_names_come_when_asked_for():
    code = "import gauntlet, sys; assert 'torch' not in sys.modules; gauntlet.Threat; assert 'torch' in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute nothing"):
        __import__("gauntlet").nothing  # noqa: B018


def test_a_named_defense_on_a_named_set_is_the_run_of_the_command_line(tmp_path):
    result = evaluate("trades", "digits", attack="pgd", steps=5, limit=24, folder=tmp_path / "a", device="cpu")
    run = commanded(tmp_path / "b", "attack=pgd", "attack.steps=5", "defense=trades", "dataset.limit=24")
    assert result.folder.relative_to(tmp_path / "a") == run.path.relative_to(tmp_path / "b")
    assert tables(result.run) == tables(run)
    assert adversarial_digest(result.run) == adversarial_digest(run)
    mine, theirs = result.manifest, run.manifest()
    assert {key: mine[key] for key in mine if key in ("name", "victim", "config_hash", "card", "flags")} == {
        key: theirs[key] for key in theirs if key in ("name", "victim", "config_hash", "card", "flags")
    }
    assert mine["command"].startswith("python run.py ")
    assert "attack.steps=5" in mine["command"]


@pytest.mark.parametrize("attack", ["pgd", "gauntlet", "square", "apgd"])
def test_a_network_on_arrays_has_the_records_of_the_command_line(attack, net, digits, tmp_path):
    knobs = {"queries": 30} if attack == "square" else {"steps": 5}
    words = [f"attack.{key}={value}" for key, value in knobs.items()]
    limit = 12 if attack == "gauntlet" else 32
    run = commanded(tmp_path, f"attack={attack}", *words, "defense=trades", f"dataset.limit={limit}")
    result = evaluate(net, digits.x, digits.y, threat=LINF, attack=attack, limit=limit, **knobs)
    assert tables(result.run) == tables(run)
    theirs, mine = (each.read_examples(0) for each in (run, result.run))
    assert all(np.array_equal(mine[name], theirs[name]) for name in theirs)


def test_the_result_says_what_the_records_say(net, digits):
    result = evaluate(net, digits.x, digits.y, **FAST)
    with torch.no_grad():
        clean = (net(digits.x).argmax(1) == digits.y).double().mean().item()
        robust = (net(result.x_adv).argmax(1) == digits.y).double().mean().item()
    assert (result.clean, result.robust) == (clean, robust)
    assert robust < clean
    assert LINF.contains(result.x_adv, digits.x).all()
    low, high = result.interval
    assert low < robust < high
    assert torch.equal(result.broken, net(result.x_adv).argmax(1) != digits.y)
    assert result.attack_names == ["pgd/true"]
    assert set(result.frame["stage"]) == {"clean", "pgd/true"}
    assert "robust accuracy" in result.table()
    assert "robust accuracy" in result._repr_html_()
    assert result.errors == {}


def test_the_callers_things_are_as_they_were(digits):
    torch.manual_seed(5)
    net = network().train()
    net.stem.eval() if hasattr(net, "stem") else next(net.children()).eval()
    for number, parameter in enumerate(net.parameters()):
        parameter.requires_grad_(number % 2 == 0)
        parameter.grad = torch.full_like(parameter, 0.5)
    modes = [module.training for module in net.modules()]
    flags = [p.requires_grad for p in net.parameters()]
    places = [p.data_ptr() for p in net.parameters()]
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    random.seed(1), np.random.seed(1)  # noqa: NPY002
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    threads = torch.get_num_threads()
    with torch.no_grad(), pytest.warns(UserWarning, match="training mode"):
        result = evaluate(net, digits.x, digits.y, **FAST, overrides=["runtime.threads=2"])
    assert result.flags == []
    assert [module.training for module in net.modules()] == modes
    assert [p.requires_grad for p in net.parameters()] == flags
    assert [p.data_ptr() for p in net.parameters()] == places
    assert all((p.grad == 0.5).all() for p in net.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()  # noqa: NPY002
    assert torch.get_num_threads() == threads


def test_a_mistake_leaves_the_callers_things_alone_too(digits):
    net = network().train()
    with (
        pytest.warns(UserWarning, match="training mode"),
        pytest.raises(UserError, match=r"unknown option attack\.stepz; did you mean steps"),
    ):
        evaluate(net, digits.x, digits.y, threat=LINF, attack="pgd", stepz=3)
    assert all(module.training for module in net.modules())
    assert all(p.requires_grad for p in net.parameters())


class Pairs(Dataset):
    def __init__(self, batch):
        self.batch = batch

    def __len__(self):
        return len(self.batch.x)

    def __getitem__(self, number):
        return self.batch.x[number], int(self.batch.y[number])


@pytest.mark.parametrize("form", ["numpy", "double", "tensors", "set", "loader"])
def test_images_come_in_every_usual_form(form, net, digits):
    given = {
        "numpy": (digits.x.numpy(), digits.y.numpy().astype(np.int32)),
        "double": (digits.x.double(), digits.y.tolist()),
        "tensors": (TensorDataset(digits.x, digits.y), None),
        "set": (Pairs(digits), None),
        "loader": (DataLoader(Pairs(digits), batch_size=5), None),
    }[form]
    whole = evaluate(net, digits.x, digits.y, **FAST)
    same = evaluate(net, *given, **FAST)
    assert same.manifest["config_hash"] == whole.manifest["config_hash"]
    assert tables(same.run) == tables(whole.run)


def test_what_is_too_large_for_memory_is_read_again_with_the_same_records(net, digits, monkeypatch):
    monkeypatch.setattr(streams, "MOST_BYTES", 1000)
    monkeypatch.setattr(stream_rows, "WINDOW", 64 * 4 * 10)
    small = {**FAST, "overrides": ["runtime.chunk=4"]}
    whole = evaluate(net, digits.x, digits.y, **small)
    passes = []

    class Counted(Pairs):
        def __getitem__(self, number):
            passes.append(number)
            return super().__getitem__(number)

    streamed = evaluate(net, DataLoader(Counted(digits), batch_size=5), **small)
    assert isinstance(streamed._images, stream_rows.StreamRows)
    assert len(streamed._images._window) <= 10 + 5
    assert streamed.manifest["config_hash"] == whole.manifest["config_hash"]
    assert tables(streamed.run) == tables(whole.run)
    assert len(passes) <= 5 * 32  # in memory 1; as a stream labels, digest, the first images, and the chunks
    assert tables(evaluate(net, Pairs(digits), **small).run) == tables(whole.run)


def test_a_limit_reads_no_more_of_a_set(net, digits):
    class Short(Pairs):
        def __getitem__(self, number):
            assert number < 7
            return super().__getitem__(number)

    assert len(evaluate(net, Short(digits), limit=7, **FAST).x_adv) == 7
    assert len(evaluate(net, DataLoader(Pairs(digits), batch_size=5), limit=7, **FAST).x_adv) == 7


def test_eight_bit_pixels_are_held_as_such(net, digits):
    x = (digits.x * 255).round() / 255
    result = evaluate(net, x, digits.y, **FAST)
    assert result._images.pixels.dtype == np.uint8
    assert torch.equal(result._split.read(slice(0, 32)).x, x)


def test_a_function_is_a_model_and_its_networks_belong_to_it(net, digits):
    bare = evaluate(net, digits.x, digits.y, **FAST)
    by_function = evaluate(lambda x: net(x), digits.x, digits.y, **FAST)
    assert tables(by_function.run) == tables(bare.run)
    other = network("standard")
    changed = evaluate(lambda x: other(x), digits.x, digits.y, **FAST)
    assert changed.manifest["victim"] != by_function.manifest["victim"]
    net.train()
    with pytest.warns(UserWarning, match="training mode"):
        again = evaluate(lambda x: net(x), digits.x, digits.y, **FAST)
    assert tables(again.run) == tables(bare.run)
    assert net.training


def test_what_a_network_holds_beside_its_weights_belongs_to_it(net, digits):
    class Scaled(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.net, self.factor = net, factor
            self.eval()

        def forward(self, x):
            return self.net(x) * self.factor

    victims = {evaluate(Scaled(f), digits.x, digits.y, **FAST).manifest["victim"] for f in (1.0, 2.0, 1.0)}
    assert len(victims) == 2


def test_an_output_that_holds_logits_is_taken(net, digits):
    class Hub(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net
            self.eval()

        def forward(self, x):
            return {"logits": self.net(x), "hidden": x}

    bare, hub = (evaluate(model, digits.x, digits.y, **FAST) for model in (net, Hub()))
    assert [r["pred"] for t in tables(hub.run) for r in t] == [r["pred"] for t in tables(bare.run) for r in t]


def test_a_folder_resumes_and_a_temporary_run_can_be_saved(net, digits, tmp_path, monkeypatch):
    parts = ["runtime.chunk=8"]
    whole = evaluate(net, digits.x, digits.y, **FAST, overrides=parts)
    write, done = RunFolder.write_part, []

    def stopped(self, chunk, *rest):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(chunk)
        write(self, chunk, *rest)

    monkeypatch.setattr(RunFolder, "write_part", stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate(net, digits.x, digits.y, **FAST, folder=tmp_path, overrides=parts)
    monkeypatch.setattr(RunFolder, "write_part", lambda self, *rest: (done.append(rest[0]), write(self, *rest)))
    result = evaluate(net, digits.x, digits.y, **FAST, folder=tmp_path, overrides=parts)
    assert sorted(done) == [0, 1, 2, 3]
    assert tables(result.run) == tables(whole.run)
    saved = RunFolder(whole.save(tmp_path / "other"))
    assert tables(saved) == tables(whole.run)
    with pytest.raises(ValueError, match="is there already"):
        whole.save(tmp_path / "other")


def test_an_object_of_our_attacks_and_defenses_is_taken(digits):
    from gauntlet.attacks.pgd import PGD
    from gauntlet.defenses.none import Undefended
    from gauntlet.training.trained_network import TrainedNetwork

    recipe = {"_target_": "gauntlet.training.recipe.Recipe"}
    with initialize_config_dir(CONF, version_base=None):
        from omegaconf import OmegaConf

        cfg = OmegaConf.to_container(compose("run", ["defense=none"]), resolve=True)
    recipe = cfg["defense"]["parts"]["model"]["recipe"]
    weights = ROOT / "gauntlet/models/zoo/digits_small_cnn_trades.safetensors"
    defense = Undefended(parts={"model": TrainedNetwork(cfg["model"], recipe, weights=str(weights))})
    result = evaluate(defense, digits.x, digits.y, threat=LINF, attack=PGD(steps=5), classes=10)
    assert tables(result.run) == tables(evaluate(network(), digits.x, digits.y, **FAST).run)


OBJECTS = {
    "gaussian_smoothing": ["defense.copies=[1]", "protocol.draws=11"],
    "confidence": [],
    "mixing": [],
}


@pytest.mark.parametrize("name", OBJECTS)
def test_a_defense_object_has_the_records_of_its_configuration(name, tmp_path):
    words = [f"defense={name}", "attack=fgsm", "dataset.limit=2", *OBJECTS[name]]
    run = commanded(tmp_path, *words)
    with initialize_config_dir(CONF, version_base=None):
        defense = build(checked(compose("run", words), KEYS).defense)
    result = evaluate(defense, "digits", attack="fgsm", limit=2, device="cpu", overrides=OBJECTS[name][-1:])
    assert result.manifest["config_hash"] == run.manifest()["config_hash"]
    assert result.manifest["name"]["defense"] == name
    assert tables(result.run) == tables(run)


def test_networks_stand_in_the_parts_of_a_defense_as_they_are(net, digits):
    net.train()
    few = {"attack": "fgsm", "threat": LINF, "limit": 4, "overrides": ["protocol.draws=11"]}
    with pytest.warns(UserWarning, match="SmallCNN is in training mode"):
        result = evaluate(GaussianSmoothing({"model": net}, sigma=0.1, copies=(1,)), digits.x, digits.y, **few)
    assert net.training
    net.eval()
    few["overrides"] += ["defense.sigma=0.1", "defense.copies=[1]"]
    same = evaluate(net, digits.x, digits.y, defense="gaussian_smoothing", **few)
    assert result.manifest["victim"] == same.manifest["victim"]
    assert tables(result.run) == tables(same.run)
    assert result.manifest["protocol"]["rule"] == "vote"


def test_what_is_deployed_already_is_refused_with_the_way(net, digits):
    victim = GaussianSmoothing({"model": net}).deploy({"model": net})
    with pytest.raises(UserError, match=r"a Victim, whose functions .*give the defense that deployed it"):
        evaluate(victim, digits.x, digits.y, **FAST)


def test_a_randomized_defense_reports_its_expectation():
    result = evaluate(
        "gaussian_smoothing",
        "digits",
        attack="pgd",
        steps=2,
        limit=8,
        protocol="expected",
        overrides=["protocol.draws=10", "defense.copies=[2]"],
    )
    assert result.summary.expected is not None
    assert result.robust == result.summary.expected.mean
    assert result.interval == result.summary.expected.interval
    assert result.x_adv.shape == (8, 1, 8, 8)


def test_distances_have_no_robust_accuracy(net, digits):
    result = evaluate(net, digits.x, digits.y, norm="l2", eps="unbounded", attack="fmn", steps=10, limit=8)
    assert np.isnan(result.robust)
    assert result.broken.all()


def test_certificates(net, digits):
    result = certify(net, digits.x, digits.y, samples=200, limit=8, overrides=["defense.sigma=0.25"])
    assert result.radius.shape == (8,)
    assert result.certified(0.1) == (result.radius >= 0.1).double().mean()
    assert "certified at" in result.table()
    proof = certify(net, digits.x, digits.y, certifier="ibp", norm="linf", eps=0.001, limit=8)
    assert proof.manifest["certificate"]["kind"] == "sound_det"
    assert not certify("trades", "digits", certifier="ibp", eps=0.01, limit=4).errors


def test_it_works_within_a_program_that_uses_hydra(tmp_path):
    code = f"""
import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

@hydra.main(version_base=None, config_path=None)
def main(cfg):
    import gauntlet
    mine = GlobalHydra.instance().hydra, HydraConfig.get().job.name
    result = gauntlet.evaluate("trades", "digits", attack="fgsm", limit=4, folder={str(tmp_path)!r})
    assert (GlobalHydra.instance().hydra, HydraConfig.get().job.name) == mine
    assert result.manifest["status"] == "done"

main()
"""
    script = tmp_path / "program.py"
    script.write_text(code)
    words = [sys.executable, str(script), "hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none"]
    env = {"PYTHONPATH": str(ROOT), "HYDRA_FULL_ERROR": "1", "PATH": ""}
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_labels_of_another_order_are_flagged(net, digits):
    result = evaluate(net, digits.x, (digits.y + 1) % 10, **FAST)
    assert result.clean < 0.2
    assert "clean-at-chance" in [flag["name"] for flag in result.flags]
    assert "red flag: clean-at-chance" in result.table()
