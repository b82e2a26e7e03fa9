import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf

from attacks.pgd import PGD
from harness.compose import build, checked
from harness.errors import UserError


def check(node, **extra):
    return checked(OmegaConf.create({"attack": node, **extra}), ["attack", "trusted_packages", "eps"])


def test_values_take_the_type_of_their_field():
    node = check({"_target_": "attacks.pgd.PGD", "step_size": 1, "steps": "7", "random_start": "false"}).attack
    assert (node.step_size, node.steps, node.random_start) == (1.0, 7, False)
    assert type(node.step_size) is float
    assert build(node) == PGD(step_size=1.0, steps=7, random_start=False)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({"_target_": "attacks.pgd.PGD", "steps": "abc"}, r"attack\.steps=abc.*whole number"),
        ({"_target_": "attacks.pgd.PGD", "steps": None}, r"attack\.steps must not be null"),
        ({"_target_": "attacks.pgd.PGD", "stps": 3}, r"unknown option attack\.stps; did you mean steps"),
        ({"_target_": "attacks.pgd.PGD", "loss": {"_target_": "os.getcwd"}}, r"attack\.loss\._target_=os\.getcwd"),
        ({"_target_": "attacks.nope.PGD"}, "does not exist"),
        ({"_target_": "attacks.pgd.Nope"}, "does not exist"),
        ({"_target_": "PGD"}, "outside gauntlet's packages"),
        ({"_target_": "attacks.pgd.PGD", "steps": "${nothing}"}, "nothing"),
        ({"_target_": "attacks.pgd.PGD", "steps": "???"}, r"attack\.steps"),
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
    with pytest.raises(UserError, match=r"^attack\.steps=0 is out of range"):
        build(check({"_target_": "attacks.pgd.PGD", "steps": 0}).attack)


def test_internal_fields_are_not_options():
    with pytest.raises(UserError, match=r"unknown option attack\.factors"):
        check({"_target_": "harness.threat.Threat", "norm": "linf", "eps": 0.1, "factors": 1})
    assert get_class("harness.threat.Threat")("linf", 0.1).factors is None
