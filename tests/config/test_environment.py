"""What comes out of the environment is used, and recorded as it was typed: see docs/security.md."""

import json
import shutil

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from gauntlet.commands.run import main as run
from gauntlet.config import environment
from gauntlet.config.shipped import CONF
from gauntlet.config.validate import build, checked
from gauntlet.errors import UserError
from gauntlet.evidence.adversarial_set import AdversarialSet
from gauntlet.evidence.published import published
from gauntlet.evidence.stable_names import to_record
from gauntlet.jobs.setup import KEYS
from gauntlet.tracking import wandb_summary
from gauntlet.transfer.crafting import SetCrafter
from gauntlet.verification.verify import main as verify

SECRET = "hunter2-5ecret"


@pytest.mark.parametrize(
    ("typed", "key", "value", "found"),
    [
        ("attack.loss=${oc.env:X}", "attack.loss", "dlr", "${oc.env:X}"),
        ("attack.steps=${oc.env:X}", "attack.steps", "7", "${oc.env:X}"),
        ("attack.steps=${oc.env:NOSUCH,9}", "attack.steps", "", "${oc.env:NOSUCH,9}"),
        ("checkpoint=${oc.env:X}/net.pt", "checkpoint", "/a", "${oc.env:X}/net.pt"),
        ("checkpoint=${oc.env:X}", "defense.parts.model.weights", "/a/b.pt", "${oc.env:X}"),  # by ${checkpoint}
    ],
)
def test_a_record_says_what_was_typed(monkeypatch, typed, key, value, found):
    monkeypatch.setenv("X", value)
    with initialize_config_dir(CONF, version_base=None):
        composed = compose("run", [typed])
    cfg = checked(composed, KEYS)
    record = OmegaConf.create(environment.recorded(composed, cfg))
    place, _, last = key.rpartition(".")
    node = OmegaConf.select(record, place) if place else record
    assert OmegaConf.to_container(node, resolve=False)[last] == found
    assert value == "" or value in str(OmegaConf.select(cfg, key))


def test_without_the_environment_the_record_is_the_checked_configuration():
    with initialize_config_dir(CONF, version_base=None):
        composed = compose("run", [])
    cfg = checked(composed, KEYS)
    assert environment.recorded(composed, cfg) == OmegaConf.to_container(cfg)


def test_a_secret_reaches_no_file_and_verify_asks_for_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("FOLDER", str(tmp_path / SECRET))
    monkeypatch.setenv("STEPS", "2")
    words = ["dataset.limit=20", "attack.steps=${oc.env:STEPS}", "logger=none", "runtime.progress=false"]
    words += [f"runs_dir={tmp_path / 'runs'}", "checkpoint=${oc.env:FOLDER}/net.safetensors"]
    (tmp_path / SECRET).mkdir()
    shutil.copy(_weights(), tmp_path / SECRET / "net.safetensors")
    assert run(words) == 0
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    (path,) = (tmp_path / "runs").rglob("run.json")
    manifest = json.loads(path.read_text())
    assert manifest["config"]["attack"]["steps"] == "${oc.env:STEPS}"
    assert "'checkpoint=${oc.env:FOLDER}/net.safetensors'" in manifest["command"]
    capsys.readouterr()
    assert verify([str(path.parent)]) == 1
    assert "comes from the environment" in capsys.readouterr().err
    assert verify([str(path.parent), "--env", "STEPS", "--env", "FOLDER"]) == 0
    shown = json.dumps([published(manifest), wandb_summary.config(manifest)])
    assert str(tmp_path) not in shown


def test_records_of_trainings_and_adversarial_sets_say_what_was_typed(monkeypatch, tmp_path):
    values = {"BY": "clean", "RATE": "0.0437", "STEPS": "17"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    place = "defense.parts.model.recipe"
    words = [f"{place}.selection.by=${{oc.env:BY}}", f"{place}.learning_rate=${{oc.env:RATE}}"]
    with initialize_config_dir(CONF, version_base=None):
        composed = compose("run", ["attack=mi", "attack.steps=${oc.env:STEPS}", *words])
    cfg = checked(composed, KEYS)
    environment.recorded(composed, cfg)
    monkeypatch.setattr("gauntlet.training.trained_network.fit", lambda *args, **options: None)
    folder = build(cfg.defense).parts["model"].train(build(cfg.dataset), tmp_path, progress=False)
    recipe = json.loads((folder / "part.json").read_text())["recipe"]
    assert (recipe["selection"]["by"], recipe["learning_rate"]) == ("${oc.env:BY}", "${oc.env:RATE}")
    assert recipe["momentum"] == 0.9
    made, key = AdversarialSet(tmp_path / "set"), {"attack": to_record(OmegaConf.to_container(cfg.attack))}
    SetCrafter(made, None, key, [0], None, 10, 0, 1, 1, None, "cpu").describe()
    assert json.loads((made.path / "set.json").read_text())["attack"]["steps"] == "${oc.env:STEPS}"
    with initialize_config_dir(CONF, version_base=None):
        composed = compose("run", [])
    assert environment.as_typed({"by": "clean"}) == {"by": "${oc.env:BY}"}
    environment.recorded(composed, checked(composed, KEYS))
    assert environment.as_typed({"by": "clean"}) == {"by": "clean"}  # nothing is known of the run before


def test_the_value_belongs_to_the_hash(monkeypatch, tmp_path):
    words = ["dataset.limit=20", "attack.steps=${oc.env:STEPS}", "runtime.progress=false", f"runs_dir={tmp_path}"]
    for steps in "23":
        monkeypatch.setenv("STEPS", steps)
        assert run(words) == 0
    assert run([*words[:1], "attack.steps=3", *words[2:]]) == 0
    assert len(list(tmp_path.rglob("run.json"))) == 2


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "${hydra:runtime.cwd}", "a${now:%Y}", "${seed}", "${${oc.env:A}}"])
def test_foreign_evidence_resolves_nothing(text):
    with pytest.raises(UserError, match=r"attack\.stages\.a\[1\]"):
        environment.refuse_foreign({"attack": {"stages": {"a": [1, text]}}}, ["A"])


def test_absolute_folders_of_output_are_not_published():
    config = {"runs_dir": "/secret/runs", "logger": {"dir": "/secret/wandb", "mode": "auto"}, "dataset": {"root": "/d"}}
    command = "python run.py attack=pgd runs_dir=/secret/runs '+logger.dir=/secret/wandb' seed=1"
    shown = published({"config": config, "command": command})
    assert shown["config"] == {
        "runs_dir": "runs",
        "logger": {"dir": "wandb", "mode": "auto"},
        "dataset": {"root": "/d"},
    }
    assert shown["command"] == "python run.py attack=pgd seed=1"
    assert config["runs_dir"] == "/secret/runs"


def _weights():
    from gauntlet.config.validate import build
    from gauntlet.training import weights_cache

    with initialize_config_dir(CONF, version_base=None):
        cfg = checked(compose("run", []), KEYS)
    part = next(iter(build(cfg.defense).parts.values()))
    return weights_cache.find(part.key(build(cfg.dataset)))
