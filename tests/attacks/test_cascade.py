import dataclasses
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from gauntlet.attacks.apgd import APGD
from gauntlet.attacks.black_box.square import Square
from gauntlet.attacks.pgd import PGD
from gauntlet.attacks.suite import Suite
from gauntlet.config.shipped import CONF
from gauntlet.data.dataset import Batch
from gauntlet.errors import UserError
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.threat_model.attack import traits_of
from gauntlet.threat_model.threat import Threat

SUITES = sorted(
    path.stem
    for path in Path(CONF, "attack").glob("*.yaml")
    if "suite.Suite" in path.read_text() and path.stem not in ("pubdef", "arc_plus")  # for surrogates, for mixtures
)


def suite(name):
    with initialize_config_dir(CONF, version_base=None):
        return instantiate(compose(f"attack/{name}").attack, _convert_="all")


def test_a_norm_changes_the_stages_that_it_names_and_no_other():
    cascade = Suite({"a": APGD(), "b": Square()}, {"l1": {"a": {"restarts": 5, "rho": 0.5}}})
    assert cascade.under("linf") == cascade.stages
    assert cascade.under("l1") == {"a": APGD(restarts=5, rho=0.5), "b": Square()}


def test_an_evaluation_runs_the_stages_of_its_norm(case):
    attack = suite("autoattack")
    for norm, (restarts, targets) in {"linf": (1, 9), "l2": (1, 9), "l1": (5, 5)}.items():
        run = Evaluation(case.victim, ("autoattack", attack), Threat(norm, 0.5), 5)
        assert [stage.name for stage in run.stages] == ["apgd_ce/true", "apgd_t/true", "fab_t/true", "square/true"]
        assert (run.stages[0].attack.restarts, run.stages[1].attack.targets) == (restarts, targets)


def test_called_as_an_attack_it_runs_them_too(case):
    cascade = Suite({"a": PGD(steps=2)}, {"l1": {"a": {"steps": 5}}})
    assert set(case.attack(cascade, Threat("linf", 1e-6))[1].backwards.tolist()) == {2}
    assert set(case.attack(cascade, Threat("l1", 1e-6))[1].backwards.tolist()) == {5 + 3}  # and one a ball


@pytest.mark.parametrize(
    ("by_norm", "key"),
    [
        ({"l3": {}}, "by_norm.l3 is unknown; there are linf"),
        ({"l1": {"c": {}}}, "by_norm.l1.c is unknown; there are a"),
        ({"l1": {"a": {"stps": 1}}}, "by_norm.l1.a.stps is unknown"),
        ({"l1": {"a": {"steps": "many"}}}, "by_norm.l1.a.steps=many"),
        ({"l1": {"a": {"steps": 0}}}, "steps=0"),
    ],
)
def test_bad_changes(by_norm, key):
    with pytest.raises(UserError, match=key.replace(".", r"\.")):
        Suite({"a": APGD()}, by_norm)


def test_the_cost_of_what_standard_never_fools(make_case):
    """AutoAttack's own code spends 7857 forwards and 1910 backwards on such a sample, and asks for success apart; here
    the check rides on the gradient pass."""
    case = make_case(classes=12)
    attack = suite("autoattack")
    assert all(dataclasses.is_dataclass(stage) for stage in attack.stages.values())
    run = Evaluation(case.victim, ("autoattack", attack), Threat("linf", 1e-7), 12)
    costs = {stage.name: case.attack(stage.attack, run.threat, torch.arange(2))[1] for stage in run.stages}
    passes = {name: (set(c.forwards.tolist()), set(c.backwards.tolist())) for name, c in costs.items()}
    assert passes == {
        "apgd_ce/true": ({101}, {101}),
        "apgd_t/true": ({910}, {909}),
        "fab_t/true": ({1801}, {900}),
        "square/true": ({5000}, {0}),
    }
    assert sum(next(iter(f)) for f, _ in passes.values()) == 7812
    assert sum(next(iter(b)) for _, b in passes.values()) == 1910


def test_rand_averages_gradients_of_a_random_head_over_twenty_draws(case):
    """The mean over fewer draws than the victim asks for is never taken; a head without randomness is left alone."""
    attack = suite("autoattack_rand")
    assert [(part.loss, part.draws, part.restarts) for part in attack.stages.values()] == [
        ("ce", 20, 1),
        ("dlr", 20, 1),
    ]
    tiny, stage = Threat("linf", 1e-6), dataclasses.replace(attack.stages["apgd_ce"], steps=1)
    plain = case.victim
    assert set(case.attack(stage, tiny)[1].backwards.tolist()) == {2}
    for declared, used in ((2, 20), (30, 30)):
        case.victim = dataclasses.replace(plain, draws=declared)
        assert set(case.attack(stage, tiny)[1].backwards.tolist()) == {2 * used}


def test_plus_is_its_six_stages():
    stages = suite("autoattack_plus").stages
    apgd = {"apgd_ce": ("ce", 5, 0), "apgd_dlr": ("dlr", 5, 0), "apgd_t": ("dlr", 1, 9)}
    assert list(stages) == ["apgd_ce", "apgd_dlr", "fab", "square", "apgd_t", "fab_t"]
    assert {n: (stages[n].loss, stages[n].restarts, stages[n].targets) for n in apgd} == apgd
    assert {n: (stages[n].targets, stages[n].restarts) for n in ("fab", "fab_t")} == {"fab": (0, 5), "fab_t": (9, 1)}


@pytest.mark.parametrize(
    ("attack", "classes", "hint"),
    [
        (APGD(loss="dlr"), 2, "the loss of a/true needs 3 classes, there are 2; use attack.loss=margin"),
        (APGD(loss="dlr", targets=2), 3, "the loss of a/true needs 4 classes, there are 3; use attack.loss=margin"),
    ],
)
def test_a_loss_that_needs_more_classes_is_refused_before_the_run(case, attack, classes, hint):
    with pytest.raises(UserError, match=hint):
        Evaluation(case.victim, ("a", attack), Threat("linf", 0.1), classes)
    Evaluation(case.victim, ("a", attack), Threat("linf", 0.1), classes + 1)


@pytest.mark.parametrize("name", SUITES)
@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_every_suite_runs_on_two_classes_and_says_what_it_replaced(name, norm, make_case):
    case, attack, threat = make_case(classes=2), suite(name), Threat(norm, 0.1)
    if norm not in attack.norms:
        pytest.skip(f"{name} is not defined for {norm}")
    run = Evaluation(case.victim, (name, attack), threat, 2)
    lacking = [each for each, part in attack.under(norm).items() if traits_of(part).fewest_classes > 2]
    assert run.replaced == {f"attack.stages.{each}.loss": "margin" for each in lacking}
    assert Evaluation(case.victim, (name, attack), threat, 10).replaced == {}
    small = {each: less(part) for each, part in attack.stages.items()}
    run = Evaluation(case.victim, (name, dataclasses.replace(attack, by_norm={}, stages=small)), threat, 2)
    rows = evaluate_chunk(run, Batch(case.ids, case.x, case.y)).rows
    assert rows["error"].null_count == len(rows)


def less(attack):
    """The attack with a budget that a test can afford."""
    knobs = ("steps", "queries", "restarts", "targets")
    return dataclasses.replace(
        attack, **{knob: min(getattr(attack, knob), 2) for knob in knobs if hasattr(attack, knob)}
    )


def test_fewer_classes_than_targets_use_what_there_is(make_case):
    case = make_case(classes=4)
    _, counts = case.attack(APGD(steps=3, loss="dlr", targets=9), Threat("linf", 1e-6))
    assert counts.backwards.tolist() == [3 * 4] * len(case.ids)
