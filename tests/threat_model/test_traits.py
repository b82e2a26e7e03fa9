"""What an attack declares is read in one place, and a slip is refused by name before any work."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from gauntlet.attacks.fgsm import FGSM
from gauntlet.attacks.pgd import PGD
from gauntlet.attacks.suite import Suite
from gauntlet.errors import UserError
from gauntlet.threat_model.attack import Traits, stages_of, traits_of
from gauntlet.threat_model.threat import Threat


def declaring(**traits):
    """An attack of these class variables, as a user writes it."""
    return type("Mine", (), {"needs": "score", **traits, "__call__": lambda *_, **__: None})()


def test_a_plain_class_declares_by_class_variables():
    mine = declaring(norms=("l2",), cross_sample=True, LIMIT=3, _state=None)
    assert traits_of(mine) == Traits("score", norms=("l2",), cross_sample=True)


def test_what_is_not_declared_has_the_default():
    assert traits_of(FGSM()) == Traits("gradient", norms=Threat.NORMS, fewest_classes=2)


def test_properties_declare_too():
    assert traits_of(PGD(targets=9, loss="margin")).fewest_classes == PGD(targets=9, loss="margin").fewest_classes


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ({"cross_samples": True}, "cross_sample"),
        ({"norm": ("l2",)}, "norms"),
        ({"unbound": True}, "unbounded"),
        ({"mixtures": True}, "mixture"),
        ({"fewest_class": 3}, "fewest_classes"),
        ({"coverages": "all"}, "coverage"),
    ],
)
def test_a_misspelt_trait_is_refused_by_name(slip, meant):
    (name,) = slip
    with pytest.raises(
        UserError, match=f"^the attack Mine declares {name}, which is no trait; did you mean {meant}[?]"
    ):
        traits_of(declaring(**slip))


def test_a_slip_that_became_a_knob_is_refused_and_a_knob_of_a_like_name_is_not():
    @dataclass(frozen=True)
    class Slipped:
        needs: ClassVar[str] = "score"
        cross_samples: bool = True

    @dataclass(frozen=True)
    class Fine:
        needs: ClassVar[str] = "score"
        norm: str = "l2"
        steps: int = 3

    with pytest.raises(UserError, match="did you mean cross_sample"):
        traits_of(Slipped())
    assert traits_of(Fine()) == Traits("score")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"needs": "scores"}, "declares needs = 'scores'; it must be one of gradient, score, decision"),
        ({"norms": "l2"}, "declares norms = 'l2'; it must be a tuple of some of linf, l2, l1, l0"),
        ({"norms": ("l3",)}, "declares norms"),
        ({"cross_sample": "yes"}, "declares cross_sample = 'yes'; it must be True or False"),
        ({"coverage": "some"}, "declares coverage = 'some'; it must be one of standing, correct, all"),
        ({"pool": 2.5}, "declares pool = 2.5; it must be a whole number"),
    ],
)
def test_a_value_that_a_trait_cannot_have_is_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        traits_of(declaring(**wrong))


def test_needs_must_be_declared():
    with pytest.raises(UserError, match="the attack object does not declare what it needs"):
        traits_of(object())


def test_a_suite_has_stages_and_another_attack_is_its_own():
    pgd = PGD()
    assert stages_of("mine", pgd, "l2") == {"mine": pgd}
    suite = Suite({"one": pgd}, by_norm={"l2": {"one": {"steps": 7}}})
    assert stages_of("mine", suite) == {"one": pgd}
    assert stages_of("mine", suite, "l2") == {"one": PGD(steps=7)}


def test_a_suite_refuses_a_stage_with_a_slip():
    with pytest.raises(UserError, match="did you mean cross_sample"):
        Suite({"pgd": PGD(), "mine": declaring(cross_samples=True)})
