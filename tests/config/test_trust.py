"""Nothing but declared components is built, whoever wrote the configuration: see docs/security.md."""

import copy
import json
import logging
import shutil
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_object
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from gauntlet.commands import calibrate_ensemble, calibrate_mixednuts
from gauntlet.commands.run import main as run
from gauntlet.config.components import printed
from gauntlet.config.shipped import CONF
from gauntlet.config.validate import checked
from gauntlet.errors import UserError
from gauntlet.jobs.setup import KEYS
from gauntlet.verification.verify import main as verify

OLD = Path(__file__).parent.parent / "data_0_1_0"

GADGETS = [
    {"_target_": "gauntlet.config.target_lookup.locate", "name": "runs.evil.payload.f", "path": ""},
    {"_target_": "harness.compose._locate", "name": "runs.evil.payload.f", "path": ""},
    {"_target_": "gauntlet.commands.certification_log.main", "arguments": ["x", "--out", "CANARY"]},
    {"_target_": "harness.certification_logs.main", "arguments": ["x", "--out", "CANARY"]},
    {"_target_": "gauntlet.config.validate.build", "node": {"_target_": "os.system", "command": "touch CANARY"}},
    {"_target_": "gauntlet.config.validate.instantiate", "config": {"_target_": "os.system"}},
    {"_target_": "gauntlet.system.atomic_file.write_atomically", "path": "CANARY", "data": "x"},
    {"_target_": "gauntlet.evidence.run_folder.RunFolder", "path": "CANARY"},
    {"_target_": "gauntlet.commands.run.main", "words": []},
    {"_target_": "gauntlet.models.checkpoint.load", "model": None, "path": "CANARY"},
    {"_target_": "gauntlet.training.loop.fit"},
    {"_target_": "gauntlet.threat_model.threat.Threat", "norm": "linf", "eps": 0.1},
    {"_target_": "gauntlet.attacks.pgd.PGD.__call__"},
    {"_target_": "gauntlet.attacks.pgd.PGD.__init__.__globals__.get"},
    {"_target_": "gauntlet.attacks.pgd.torch.load", "f": "CANARY"},
    {"_target_": "gauntlet.attacks.pgd.PGD.__class__.mro"},
    {"_target_": "gauntlet.attacks.pgd.PGD", "_partial_": True},
    {"_target_": "gauntlet.attacks.pgd.PGD", "_args_": [3]},
    {"_target_": "gauntlet.attacks.pgd.PGD", "_recursive_": False, "loss": {"_target_": "os.system"}},
    {"_target_": "gauntlet.attacks.pgd.PGD", "loss": [[{"_target_": "os.system", "command": "touch CANARY"}]]},
    {"_target_": "gauntlet.attacks.suite.Suite", "stages": {"a": {"b": {"_target_": "os.system"}}}},
    {"_target_": "gauntlet.attacks.suite.Suite", "stages": {"a": {"_target_": "gauntlet.defenses.none.Undefended"}}},
    {"_target_": "gauntlet.attacks.suite.Suite", "by_norm": {"l2": {"a": {"x": {"_target_": "os.getcwd"}}}}},
    {"_target_": "hydra.utils.get_method", "path": "os.system"},
    {"_target_": "hydra.utils.call", "config": {"_target_": "os.system"}},
    {"_target_": "hydra.utils.instantiate", "config": {"_target_": "os.system"}},
    {"_target_": "builtins.eval", "_args_": ["open('CANARY', 'w')"]},
    {"_target_": "builtins.exec", "_args_": ["open('CANARY', 'w')"]},
    {"_target_": "os.system", "command": "touch CANARY"},
    {"_target_": "subprocess.run", "args": ["touch", "CANARY"]},
    {"_target_": "pandas.read_pickle", "filepath_or_buffer": "CANARY"},
    {"_target_": "torch.load", "f": "CANARY", "weights_only": False},
    {"_target_": "functools.partial", "_args_": [{"_target_": "hydra.utils.get_method", "path": "os.system"}]},
    {"_target_": "operator.attrgetter", "_args_": ["__class__"]},
    {"_target_": "runs.evil.payload.f"},
    {"_target_": "user:runs.evil.payload.f"},
    {"_target_": "user:models.evil.f"},
    {"_target_": "lambda: 0"},
    {"_target_": "(lambda: 0)()"},
    {"_target_": "..os.system"},
    {"_target_": "gauntlet"},
    {"_target_": ""},
    {"_target_": ["os", "system"]},
    {"_target_": {"_target_": "os.system"}},
    {"_target_": None},
    {"_target_": "\\${oc.env:HOME}"},
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a payload that leaves a file, importable by its place from the current folder."""
    monkeypatch.chdir(tmp_path)
    evil = tmp_path / "runs" / "evil"
    evil.mkdir(parents=True)
    for name in ("payload.py", "__init__.py"):
        (evil / name).write_text("open('CANARY', 'w').close()\ndef f(*a, **k): open('CANARY', 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    handlers = list(logging.getLogger().handlers)
    yield tmp_path
    logging.getLogger().handlers[:] = handlers  # Hydra sets its own


def status(*words):
    """The exit status of `gauntlet run`."""
    try:
        return run(list(words))
    except SystemExit as end:
        return end.code


@cache
def once_composed(*overrides):
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base=None):
        return compose("run", list(overrides))


def composed(*overrides):
    """A copy that a test may change; composing takes long."""
    return copy.deepcopy(once_composed(*overrides))


def refused(said):
    assert said.count("error: ") == 1, said
    assert "Traceback" not in said
    assert not Path("CANARY").exists()


@pytest.mark.parametrize(
    "place", ["attack", "defense", "defense.parts.model.model", "model", "dataset", "logger", "draws"]
)
@pytest.mark.parametrize("gadget", GADGETS, ids=lambda node: str(node["_target_"])[:50])
def test_a_gadget_is_refused_wherever_it_stands(gadget, place, here):
    if place == "attack" or gadget["_target_"] != "gauntlet.attacks.suite.Suite":
        cfg = composed()
        OmegaConf.set_struct(cfg, False)
        OmegaConf.update(cfg, place, gadget, merge=False)
        with pytest.raises(UserError) as caught:
            checked(cfg, KEYS)
        assert "\n" not in str(caught.value)
    assert not Path("CANARY").exists()


@pytest.mark.parametrize("gadget", GADGETS[::5], ids=lambda node: str(node["_target_"])[:50])
def test_a_gadget_in_a_preset_is_refused(gadget, here, capfd):
    folder = here / "conf" / "attack"
    folder.mkdir(parents=True)
    (folder / "corner.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(gadget)))
    assert status(f"hydra.searchpath=[file://{here}/conf]", "attack=corner", "runs_dir=out") == 1
    refused(capfd.readouterr().err)


@pytest.mark.parametrize("gadget", GADGETS, ids=lambda node: str(node["_target_"])[:50])
def test_a_gadget_in_evidence_is_refused(gadget, here, capfd):
    (old,) = OLD.glob("digits/*/none/pgd/*")
    folder = here / "runs" / old.relative_to(OLD)
    shutil.copytree(old, folder)
    manifest = json.loads((folder / "run.json").read_text())
    manifest["config"]["attack"] = gadget
    manifest["config"]["trusted_packages"] = []
    (folder / "run.json").write_text(json.dumps(manifest))
    assert verify([str(folder)]) == 1
    refused(capfd.readouterr().err)


def test_what_a_field_declares_by_type_is_accepted():
    swa = "{_target_: gauntlet.training.weight_averaging.SWA, start: 0.5}"
    weighting = "{_target_: gauntlet.training.sample_weighting.SoftmaxWeighting}"
    recipe = "defense.parts.model.recipe"
    cfg = checked(composed(f"{recipe}.swa={swa}", f"{recipe}.weighting={weighting}"), KEYS)
    assert cfg.defense.parts.model.recipe.swa.start == 0.5
    with pytest.raises(UserError, match="no component of gauntlet for swa"):
        checked(composed(f"{recipe}.swa={weighting}"), KEYS)


def test_evidence_cannot_trust_itself(here, capfd):
    (old,) = OLD.glob("digits/*/none/pgd/*")
    folder = here / "runs" / old.relative_to(OLD)
    shutil.copytree(old, folder)
    manifest = json.loads((folder / "run.json").read_text())
    manifest["config"] |= {"trusted_packages": ["runs"], "attack": {"_target_": "runs.evil.payload.f"}}
    (folder / "run.json").write_text(json.dumps(manifest))
    assert verify([str(folder)]) == 1
    said = capfd.readouterr().err
    refused(said)
    assert "--trust runs" in said


HEAD = "# @package _global_\n"
PRESETS = {
    "trust": "trusted_packages: [pandas]\nattack: {_target_: pandas.read_pickle, filepath_or_buffer: CANARY}\n",
    "callback": "hydra: {callbacks: {x: {_target_: runs.evil.payload.f}}}\n",
    "known callback": "hydra: {callbacks: {x: {_target_: gauntlet.cluster.sweep_jobs.Announce}}}\n",
    "formatter": "hydra: {job_logging: {formatters: {x: {(): runs.evil.payload.f}}}}\n",
    "handler": "hydra: {hydra_logging: {handlers: {x: {class: runs.evil.payload.f}}}}\n",
    "launcher": "hydra: {launcher: {_target_: runs.evil.payload.f}}\n",
    "sweeper": "hydra: {sweeper: {_target_: runs.evil.payload.f}}\n",
    "environment": "hydra: {job: {env_set: {LD_PRELOAD: CANARY}}}\n",
    "searchpath": "hydra: {searchpath: ['pkg://runs.evil']}\n",
    "chosen launcher": "defaults: [{override /hydra/launcher: mine}]\n",
    "chosen sweeper": "defaults: [{override /hydra/sweeper: mine}]\n",
}


@pytest.mark.parametrize("multirun", [[], ["-m"]], ids=["run", "sweep"])
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_neither_trust_nor_hydra(name, multirun, here, capfd):
    conf = here / "conf"
    for folder in ("attack", "hydra/launcher", "hydra/sweeper"):
        (conf / folder).mkdir(parents=True)
    (conf / "attack" / "corner.yaml").write_text(HEAD + PRESETS[name])
    (conf / "hydra" / "launcher" / "mine.yaml").write_text("_target_: runs.evil.payload.f\n")
    (conf / "hydra" / "sweeper" / "mine.yaml").write_text("_target_: runs.evil.payload.f\n")
    assert status(*multirun, f"hydra.searchpath=[file://{conf}]", "attack=corner", "runs_dir=out") == 1
    refused(capfd.readouterr().err)


@pytest.mark.parametrize(
    ("command", "gadget"), [(calibrate_ensemble, GADGETS[0]), (calibrate_mixednuts, GADGETS[28])], ids=["helper", "os"]
)
def test_a_calibration_builds_no_gadget(gadget, command, here, capfd):
    conf = here / "conf" / "dataset"
    conf.mkdir(parents=True)
    (conf / "corner.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(gadget)))
    assert command.main([f"hydra.searchpath=[file://{here}/conf]", "dataset=corner"]) == 1
    refused(capfd.readouterr().err)


@pytest.mark.parametrize("name", ["handler", next(iter(PRESETS))])
def test_a_preset_of_a_calibration_sets_neither_trust_nor_hydra(name, here, capfd):
    conf = here / "conf" / "dataset"
    conf.mkdir(parents=True)
    (conf / "corner.yaml").write_text(HEAD + PRESETS[name])
    assert calibrate_ensemble.main([f"hydra.searchpath=[file://{here}/conf]", "dataset=corner"]) == 1
    refused(capfd.readouterr().err)


@pytest.mark.parametrize(
    "word",
    [
        "+hydra.callbacks.x._target_=runs.evil.payload.f",
        "hydra.launcher._target_=runs.evil.payload.f",
        "hydra.sweeper._target_=runs.evil.payload.f",
        "+hydra.job_logging.formatters.x.class=runs.evil.payload.f",
        "+hydra.job_logging.handlers.x={class: runs.evil.payload.f}",
        "+hydra.job_logging.handlers.x.stream=ext://runs.evil.payload.f",
    ],
)
def test_hydras_own_nodes_call_what_is_known(word, here, capfd):
    assert status(word, "runs_dir=out") == 1
    refused(capfd.readouterr().err)


def test_the_file_that_the_user_starts_with_may_trust(here, capfd):
    (here / "conf").mkdir()
    (here / "conf" / "own.yaml").write_text("defaults: [run, _self_]\ntrusted_packages: [odd]\n")
    words = ["--config-dir", f"{here}/conf", "--config-name", "own", "--cfg", "job"]
    assert status(*words) == 0
    assert "trusted_packages:\n- odd\n" in capfd.readouterr().out


NAMES = st.sampled_from(
    [
        *sorted(set().union(*printed()[0].values(), *printed()[1].values())),
        *(str(node["_target_"]) for node in GADGETS),
    ]
)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["ce", "l2", "x", "os.system"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["stages", "a", "model", "_args_", "_partial_", "steps"]), inner, max_size=3)
        | st.builds(
            lambda name, more: {"_target_": name, **more},
            NAMES,
            st.dictionaries(
                st.sampled_from(["stages", "inner", "steps", "loss", "_recursive_", "parts"]), inner, max_size=3
            ),
        )
    ),
    max_leaves=10,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["attack", "defense", "model", "dataset", "certifier"]), VALUE)
def test_a_nested_configuration_is_refused_or_holds_declared_components_alone(place, value):
    cfg = composed()
    OmegaConf.set_struct(cfg, False)
    try:
        OmegaConf.update(cfg, place, value, merge=False)
        known = checked(cfg, KEYS)
    except UserError:
        return
    declared = set().union(*printed()[0].values(), *printed()[1].values())

    def walk(node):
        if isinstance(node, dict):
            if "_target_" in node:
                assert node["_target_"] in declared
                assert callable(get_object(node["_target_"]))
                assert not {"_args_", "_partial_"} & set(node)
            for item in node.values():
                walk(item)
        elif isinstance(node, list):
            for item in node:
                walk(item)

    walk(OmegaConf.to_container(known))
