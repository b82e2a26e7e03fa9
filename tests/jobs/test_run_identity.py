"""What belongs to the identity of a run, and what does not."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from safetensors.torch import save_file

from gauntlet.config.shipped import CONF
from gauntlet.jobs.attack_setup import prepare
from gauntlet.models.small_cnn import SmallCNN


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "network.safetensors"
    save_file(SmallCNN(channels=1, size=8, classes=10).state_dict(), path)
    return path


@pytest.mark.parametrize(("attack", "compares"), [("pma", False), ("a3", True)])
def test_the_cut_into_chunks_belongs_to_runs_that_compare_samples(attack, compares, weights, tmp_path):
    def hashed(*overrides):
        GlobalHydra.instance().clear()
        with initialize_config_dir(CONF, version_base=None):
            rest = [f"attack={attack}", f"checkpoint={weights}", f"runs_dir={tmp_path}", *overrides]
            cfg = compose("run", rest)
        names = {"attack": attack, "defense": "none", "model": "small_cnn"}
        return prepare(cfg, names, "").manifest["config_hash"]

    plain = hashed()
    assert hashed("runtime.batch_size=7", "runtime.shards=2") == plain
    assert (hashed("runtime.chunk=100") != plain) is compares


@pytest.mark.parametrize(
    ("attack", "place", "revised", "version", "kept"),
    [("gauntlet", "attack", "l1", 4, "l0 threat.eps=3"), ("pma_plus", "attack.stages.pma", "l1", 2, "linf")],
)
def test_a_later_version_of_an_attack_is_another_run_in_the_norms_that_it_changes(
    attack, place, revised, version, kept, weights, tmp_path
):
    def manifest(norm, **revisions):
        GlobalHydra.instance().clear()
        with initialize_config_dir(CONF, version_base=None):
            cfg = compose(
                "run",
                [f"attack={attack}", *f"threat={norm}".split(), f"checkpoint={weights}", f"runs_dir={tmp_path}"],
            )
        return prepare(cfg, {"attack": attack, "defense": "none", "model": "small_cnn"}, "", **revisions).manifest

    today, first = manifest(revised), manifest(revised, revisions={})
    assert today["revisions"][place] == version
    assert "revisions" not in first
    assert today["config_hash"] != first["config_hash"]
    assert "revisions" not in manifest(kept)
    assert manifest(kept)["config_hash"] == manifest(kept, revisions={})["config_hash"]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_fit_that_ends_at_ties_is_another_run_and_another_perturbation(norm, weights, tmp_path, monkeypatch):
    from gauntlet.attacks.universal.uap import UAP
    from gauntlet.evaluation import universal_fit

    def prepared(**revisions):
        GlobalHydra.instance().clear()
        with initialize_config_dir(CONF, version_base=None):
            cfg = compose("run", ["attack=uap", f"threat={norm}", f"checkpoint={weights}", f"runs_dir={tmp_path}"])
        job = prepare(cfg, {"attack": "uap", "defense": "none", "model": "small_cnn"}, "", **revisions)
        return job.manifest, universal_fit._key(job.evaluation, job.evaluation.stages[0], job.split, "victim")

    (today, key), (first, _) = prepared(), prepared(revisions={})
    assert today["revisions"] == {"attack": 2}
    assert today["config_hash"] != first["config_hash"]
    monkeypatch.setattr(UAP, "revisions", None)
    assert prepared()[1] != key
    assert prepared()[0]["config_hash"] == first["config_hash"]


def test_both_words_for_the_deployed_forward_are_one_run_as_of_version_0_1_0(weights, tmp_path):
    def manifest(*overrides):
        GlobalHydra.instance().clear()
        with initialize_config_dir(CONF, version_base=None):
            cfg = compose("run", [f"checkpoint={weights}", f"runs_dir={tmp_path}", *overrides])
        return prepare(cfg, {"attack": "pgd", "defense": "none", "model": "small_cnn"}, "").manifest

    new, old, declared = manifest("heads=deployed"), manifest("heads=true"), manifest()
    assert new["heads"] == old["heads"] == new["config"]["heads"] == "true"
    assert new["config_hash"] == old["config_hash"] != declared["config_hash"]
