import os
import re
import sys

import hydra
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_class
from omegaconf import OmegaConf

from gauntlet.attacks.pgd import PGD
from gauntlet.commands.entry import attempt, entry
from gauntlet.config.shipped import CONF
from gauntlet.config.validate import build, checked
from gauntlet.errors import UserError
from gauntlet.jobs.setup import KEYS
from gauntlet.jobs.training_job import KEYS as TRAINING_KEYS


def check(node, **extra):
    cfg = OmegaConf.create({"attack": node, "trusted_packages": [], **extra})
    return checked(cfg, ["attack", "trusted_packages"])


def composed(*overrides, name="run"):
    """What run.py makes of its arguments."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base=None):
        return checked(compose(name, list(overrides)), KEYS if name == "run" else TRAINING_KEYS)


def test_values_take_the_type_of_their_field():
    node = check({"_target_": "gauntlet.attacks.pgd.PGD", "step_size": 1, "steps": "7", "random_start": "false"}).attack
    assert (node.step_size, node.steps, node.random_start) == (1.0, 7, False)
    assert type(node.step_size) is float
    assert build(node) == PGD(step_size=1.0, steps=7, random_start=False)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"_target_": "gauntlet.attacks.pgd.PGD", "steps": "abc"}, r"attack\.steps=abc.*whole number"),
        ({"_target_": "gauntlet.attacks.pgd.PGD", "steps": None}, r"attack\.steps must not be null"),
        ({"_target_": "gauntlet.attacks.pgd.PGD", "stps": 3}, r"unknown option attack\.stps; did you mean steps"),
        (
            {"_target_": "gauntlet.attacks.suite.Suite", "stages": {"a": {"_target_": "os.getcwd"}}},
            r"attack\.stages\.a\._target_=os\.getcwd",
        ),
        ({"_target_": "attacks.nope.PGD"}, "does not exist"),
        ({"_target_": "gauntlet.attacks.pgd.Nope"}, "does not exist"),
        ({"_target_": "PGD"}, "outside gauntlet's packages"),
        ({"_target_": "gauntlet.attacks.pgd.PGD", "steps": "${nothing}"}, "nothing"),
        ({"_target_": "gauntlet.attacks.pgd.PGD", "steps": "???"}, r"attack\.steps"),
    ],
)
def test_a_bad_node_gets_one_line_with_the_full_key(node, words):
    with pytest.raises(UserError, match=words) as caught:
        check(node)
    assert "\n" not in str(caught.value)


def test_an_unknown_key_of_the_root():
    with pytest.raises(UserError, match="unknown option atack; did you mean attack"):
        checked(OmegaConf.create({"atack": 1}), ["attack"])


def test_a_package_of_the_users_has_to_be_named():
    node = {"_target_": "fractions.Fraction", "numerator": 3}
    with pytest.raises(UserError, match=r"trusted_packages=\[fractions\]"):
        check(node)
    assert build(check(node, trusted_packages=["fractions"]).attack) == 3


def test_a_constructors_complaint_comes_through_alone():
    with pytest.raises(UserError, match=r"^attack\.steps=0 must be a whole number from 1$"):
        build(check({"_target_": "gauntlet.attacks.pgd.PGD", "steps": 0}).attack)


def test_internal_fields_are_not_options():
    with pytest.raises(UserError, match=r"unknown option threat\.factors"):
        composed("+threat.factors=1")
    assert get_class("gauntlet.threat_model.threat.Threat")("linf", 0.1).factors is None


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed=abc", "seed=abc has the wrong type; it takes a whole number"),
        ("seed=-1", "seed=-1 is out of range"),
        ("seed=9223372036854775808", "seed=9223372036854775808 is out of range"),
        ("seed=1.5", "seed=1.5 has the wrong type"),
        ("seed=[1]", r"seed=\[1\] has the wrong type"),
        ("~seed", "seed is missing"),
        ("runs_dir=null", "runs_dir must not be null"),
        ("heads=[true]", "heads="),
        ("checkpoint=[a]", r"checkpoint=\['a'\] has the wrong type; it takes text or null"),
        ("trusted_packages=[null]", r"trusted_packages\[0\] must not be null"),
        ("attack.step_size=nan", r"attack\.step_size=nan must be finite"),
        ("~threat", "threat is missing"),
        ("~attack", "one record attacks or certifies"),
        ("~attack._target_", "attack must be a choice"),
        ("attack.random_start=[false]", r"attack\.random_start=.*true or false"),
        ("attack.steps=[3]", r"attack\.steps=\[3\].*whole number"),
        ("attack.steps={a: 3}", r"attack\.steps="),
        ("attack.loss={_target_: gauntlet.attacks.pgd.PGD}", r"attack\.loss=.*text"),
        ("runtime.fold=[]", r"runtime\.fold=\[\]"),
        ("dataset.limit=[5]", r"dataset\.limit=\[5\]"),
        ("dataset.budgets=3", r"dataset\.budgets` is not a container"),
        ("+dataset.budgets.foo=1", r"unknown option dataset\.budgets\.foo; there are linf"),
        ("dataset.budgets.l2=[1]", r"dataset\.budgets\.l2=\[1\]"),
        ("attack._target_=gauntlet.defenses.none.Undefended", "is no attack of gauntlet"),
        ("defense.parts.model=3", r"defense\.parts\.model=3.*_target_"),
        ("defense.parts.model=null", r"defense\.parts\.model must not be null"),
        ("defense.parts.model.uses=abc", r"defense\.parts\.model\.uses=abc.*a list"),
        ("defense.parts.model.recipe=sgd", r"defense\.parts\.model\.recipe=sgd.*mapping"),
        ("defense.parts.model.recipe.selection=3", r"selection=3.*_target_"),
        ("defense.parts.model.recipe.objective=null", r"objective must not be null"),
        ("defense.parts.model.recipe.milestones=[a]", r"recipe\.milestones\[0\]=a.*a number"),
        ("+attack._partial_=true", r"unknown option attack\._partial_"),
        ("+attack._args_=[1]", r"unknown option attack\._args_"),
        ("attack={_target_: gauntlet.data.imagefolder.os.mkdir, path: /tmp/x}", "is not code of gauntlet but of posix"),
        ("attack={_target_: gauntlet.data.imagefolder.os}", "is not code of gauntlet"),
        ("attack={_target_: gauntlet.config.validate.PACKAGE}", "is not code of gauntlet"),
        ("attack={_target_: gauntlet.errors.UserError.__class__}", "is an internal of Python"),
    ],
)  # fmt: skip
def test_each_value_is_checked_before_anything_is_built(override, words):
    overrides = [override] if not override.startswith("attack={") else ["~attack", "+" + override]
    with pytest.raises(UserError, match=words) as caught:
        composed(*overrides)
    assert "\n" not in str(caught.value)


def test_a_network_of_the_users_that_replaces_a_shipped_one_is_told_where_it_goes():
    words = r"unknown option model\.\w+.*write model=wrapped model\.network\._target_=statistics\.NormalDist"
    with pytest.raises(UserError, match=words):
        composed("model._target_=statistics.NormalDist", "trusted_packages=[statistics]")


def test_taps_are_lists_of_lists():
    for taps in ("abc", "[abc]", "[[3, [a]]]"):
        with pytest.raises(UserError, match=r"defense\.taps"):
            composed("defense=adaptive_smoothing", f"defense.taps={taps}")
    with pytest.raises(UserError, match=r"defense\.taps=\[\['stem'\]\] must be"):
        build(composed("defense=adaptive_smoothing", "defense.taps=[[stem]]").defense)


def test_values_of_the_root_take_their_types():
    cfg = composed("heads=true", "seed='3'", "runs_dir=2024", "trusted_packages=odd")
    assert (cfg.heads, cfg.seed, cfg.runs_dir, cfg.trusted_packages) == ("true", 3, "2024", ["odd"])


def test_a_training_has_a_checked_root_too():
    assert composed(name="train").seed == 0
    with pytest.raises(UserError, match="seed=abc"):
        composed("seed=abc", name="train")


def test_items_take_the_type_of_their_hint():
    milestones = composed("defense.parts.model.recipe.milestones=[0,'1']").defense.parts.model.recipe.milestones
    assert [(type(value), value) for value in milestones] == [(float, 0.0), (float, 1.0)]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("+defense.parts.other=${defense.parts.model}", r"defense\.parts must be model, not model, other"),
        ("~defense.parts.model", r"defense\.parts must be model, not none"),
        ("defense.parts.model._recursive_=true", "_recursive_: false"),
    ],
)
def test_a_defense_has_the_parts_that_it_names(override, words):
    with pytest.raises(UserError, match=words):
        build(composed(override).defense)


def test_threads_have_an_upper_bound():
    with pytest.raises(UserError, match=r"runtime\.threads=100000 must be a whole number from 1 to 1024"):
        build(composed("runtime.threads=100000").runtime)


def test_code_that_a_trusted_package_borrows_has_to_be_trusted_too(tmp_path, monkeypatch):
    (tmp_path / "borrower.py").write_text("from fractions import Fraction\n")
    (tmp_path / "broken.py").write_text("def :\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    node = {"_target_": "borrower.Fraction", "numerator": 3}
    with pytest.raises(UserError, match="not code of borrower but of fractions"):
        check(node, trusted_packages=["borrower"])
    assert build(check(node, trusted_packages=["borrower", "fractions"]).attack) == 3
    with pytest.raises(UserError, match=r"broken\.f cannot be imported: invalid syntax"):
        check({"_target_": "broken.f"}, trusted_packages=["broken"])


@pytest.fixture
def program(monkeypatch, tmp_path):
    """Calls a `@hydra.main` function around `task` as run.py does; returns the exit status."""

    def call(task, *arguments):
        standard = [] if any(word.startswith("runs_dir=") for word in arguments) else [f"runs_dir={tmp_path}"]

        @hydra.main(version_base=None, config_path=CONF, config_name="run")
        def main(cfg):
            attempt(lambda: task(cfg), "stopped")

        monkeypatch.setattr(sys, "argv", ["run.py", *arguments, *standard])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        try:
            return entry(main)
        except SystemExit as end:
            return end.code

    return call


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("attack.foo=1", "error: unknown option attack.foo"),
        ("attack={path: 1}", "error: unknown option attack.path"),
        ("trusted_packages={a: b}", "error: Error merging override trusted_packages={a: b}: Cannot merge"),
        ("attack=pgdd", "error: there is no attack=pgdd (did you mean pgd?); the choices are a3, adaea"),
        ("attack=null", "error: attack=null: a choice must be a name"),
        ("atack=pgd", "error: unknown option atack"),
        ("attack.steps=[", "error: "),
        ("threat.eps=${nothing", "error: "),
        ("~nothing", "error: Could not delete"),
    ],
)
def test_a_complaint_of_hydra_takes_one_line(override, words, program, capfd):
    assert program(lambda cfg: True, override) == 1
    said = capfd.readouterr().err
    assert said.startswith(words)
    assert said.count("\n") == 1


@pytest.mark.parametrize("ours", [True, False])
def test_a_bug_in_one_job_does_not_stop_the_others(ours, program, capfd, monkeypatch):
    done = []
    if ours:
        monkeypatch.setattr("gauntlet.commands.entry.foreign_frame", lambda cause: "")

    def task(cfg):
        if cfg.seed == 1:
            raise ZeroDivisionError("oh")
        done.append(cfg.seed)
        return True

    assert program(task, "-m", "seed=0,1,2") == 1
    assert done == [0, 2]
    said = capfd.readouterr().err
    assert ("Traceback" in said) is ours
    place = r"unexpected ZeroDivisionError" if ours else r"test_validate.py:\d+ \(task\) raised ZeroDivisionError"
    assert re.search(rf"^error: {place}: oh$", said, re.MULTILINE)
    assert said.splitlines()[-1] == "the same command goes on"


@pytest.mark.parametrize(("task", "status"), [(lambda cfg: True, 0), (lambda cfg: False, 1), (lambda cfg: 1 // 0, 1)])
def test_the_status_of_a_single_run(task, status, program):
    assert program(task) == status


def test_a_sweep_folder_that_cannot_be_written_takes_one_line(program, capfd, tmp_path):
    (tmp_path / "file").write_text("")
    assert program(lambda cfg: True, "-m", "seed=0,1", f"runs_dir={tmp_path}/file") == 1
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert f"{tmp_path}/file" in line
    assert "runs_dir" in line


def test_who_asks_for_the_traceback_of_hydra_gets_it(monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["run.py"])

    def main():
        raise hydra.errors.HydraException("oh")

    with pytest.raises(hydra.errors.HydraException):
        entry(main)
    assert os.environ["HYDRA_FULL_ERROR"] == "1"
