"""Every component has a stable name, and every name of version 0.1.0 still means something."""

import logging
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_object
from hypothesis import given
from hypothesis import strategies as st

from gauntlet.config import validate
from gauntlet.config.shipped import CONF, content
from gauntlet.evidence.stable_names import PLACES, ROOTS, first_name, from_record, place_of, to_record
from gauntlet.jobs.setup import KEYS

OLD = (Path(__file__).parent.parent / "data_0_1_0" / "targets.txt").read_text().split()
"""Each `_target_` of this package in the configuration of 0.1.0."""


def targets(node):
    """Every `_target_` of plain values."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "_target_":
                yield value
            yield from targets(value)
    elif isinstance(node, list):
        for item in node:
            yield from targets(item)


PRINTED = sorted(
    {
        target
        for path in Path(CONF).rglob("*.yaml")
        for target in targets(content(path))
        if target.startswith("gauntlet.")
    }
)


@pytest.mark.parametrize("place", PRINTED)
def test_a_component_of_the_configuration_has_a_first_name(place):
    name = first_name(place)
    assert place_of(name) == place
    assert name.split(".")[0] in (*ROOTS, "gauntlet")
    assert (name == place) == (name not in OLD and place.split(".")[1] not in ROOTS)


def test_every_name_of_0_1_0_stands_somewhere_today():
    assert len(OLD) == 123
    for name in OLD:
        assert callable(get_object(place_of(name))), name
        assert first_name(place_of(name)) == name


def test_two_names_never_mean_one_place():
    assert len(set(PLACES.values())) == len(PLACES)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("gauntlet.attacks.suite.Suite", "attacks.cascade.Cascade"),
        ("gauntlet.attacks.pgd.PGD", "attacks.pgd.PGD"),
        ("models.resnet.ResNet", "user:models.resnet.ResNet"),
        ("attacks.cascade.Cascade", "user:attacks.cascade.Cascade"),
        ("mine.net.Net", "mine.net.Net"),
    ],
)
def test_a_record_tells_ours_and_a_users_apart(place, name):
    assert first_name(place) == name
    assert place_of(name) == place


PLACE = st.sampled_from([*PRINTED, "models.resnet.ResNet", "training.loop.fit", "mine.Net", "utils.Net"])
LEAF = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
NODE = st.recursive(
    LEAF,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.builds(lambda place, more: {"_target_": place, **more}, PLACE, st.dictionaries(st.just("a"), inner))
    ),
    max_leaves=12,
)


@given(NODE)
def test_what_is_recorded_comes_back(node):
    assert from_record(to_record(node)) == node


def composed(*overrides):
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base=None):
        return validate.checked(compose("run", list(overrides)), KEYS)


def test_an_old_name_in_a_users_configuration_is_accepted_with_one_warning(caplog):
    validate._warn_of_old_name.cache_clear()
    with caplog.at_level(logging.WARNING):
        once = composed("attack._target_=attacks.pgd.PGD")
        composed("attack._target_=attacks.pgd.PGD")
    assert once.attack == composed().attack
    assert [record.getMessage() for record in caplog.records] == [
        "attacks.pgd.PGD is an old name of gauntlet.attacks.pgd.PGD; it goes on working"
    ]
