"""A knob states its range with its default; one check says of all what is wrong, in one wording."""

from dataclasses import asdict, dataclass, replace

import pytest

from gauntlet.attacks.pgd import PGD
from gauntlet.attacks.transfer.admix import Admix
from gauntlet.certification.mixing_bounds import MixingBounds
from gauntlet.errors import UserError
from gauntlet.knobs import Knobs, choice, knob


@dataclass(frozen=True)
class Mine(Knobs, key="attack"):
    steps: int = knob(10, least=1)
    rounds: int = knob(2, least=1, most=4)
    size: float = knob(0.5, above=0)
    share: float = knob(0.5, least=0, below=1, hint="it is a share")
    images: int | None = knob(5, least=1, optional=True)
    loss: str = choice("ce", ("ce", "margin"))
    dtype: str | None = choice(None, ("bfloat16",), optional=True)
    limit: int | None = knob(None, whole=True, least=1, optional=True)
    free: int = -3


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"steps": 0}, "attack.steps=0 must be a whole number from 1"),
        ({"steps": 2.5}, "attack.steps=2.5 must be a whole number from 1"),
        ({"steps": True}, "attack.steps=True must be a whole number from 1"),
        ({"steps": None}, "attack.steps=None must be a whole number from 1"),
        ({"rounds": 5}, "attack.rounds=5 must be a whole number from 1 to 4"),
        ({"size": 0}, "attack.size=0 must be a number above 0"),
        ({"size": float("nan")}, "attack.size=nan must be finite"),
        ({"size": float("inf")}, "attack.size=inf must be finite"),
        ({"share": 1}, "attack.share=1 must be a number from 0 and below 1: it is a share"),
        ({"images": 0}, "attack.images=0 must be a whole number from 1, or null"),
        (
            {"dtype": "float16"},
            "attack.dtype='float16' is unknown; choose one of bfloat16, null; did you mean bfloat16?",
        ),
        ({"limit": 1.5}, "attack.limit=1.5 must be a whole number from 1, or null"),
        ({"loss": "margim"}, "attack.loss='margim' is unknown; choose one of ce, margin; did you mean margin?"),
    ],
)
def test_a_value_outside_is_refused(value, message):
    with pytest.raises(UserError) as refused:
        Mine(**value)
    assert str(refused.value) == message


def test_values_inside_pass_and_the_dataclass_stays_as_it_was():
    mine = Mine(steps=1, size=3, share=0, images=None)
    assert asdict(mine) == {
        "steps": 1, "rounds": 2, "size": 3, "share": 0, "images": None, "loss": "ce", "dtype": None,
        "limit": None, "free": -3,
    }  # fmt: skip
    assert mine == Mine(1, 2, 3, 0, None)
    assert hash(Mine()) == hash(Mine())
    with pytest.raises(UserError):
        replace(mine, rounds=0)


def test_a_field_without_a_default_must_be_given():
    @dataclass(frozen=True, kw_only=True)
    class Data(Knobs, key="dataset"):
        classes: int = knob(whole=True, least=2)

    @dataclass(frozen=True, kw_only=True)
    class Ten(Data):
        classes: int = 10

    with pytest.raises(TypeError, match="classes"):
        Data()
    for kind in (Data, Ten):
        with pytest.raises(UserError, match=r"^dataset\.classes=1 must be a whole number from 2$"):
            kind(classes=1)
    assert Ten().classes == 10


def test_a_class_without_a_place_goes_by_its_name():
    with pytest.raises(UserError, match=r"^Admix\.copies=0 must be a whole number from 1$"):
        Admix(copies=0)


def test_a_range_needs_no_instance():
    with pytest.raises(UserError, match=r"^attack\.step_size=0 must be a number above 0$"):
        PGD(step_size=0)


def test_another_default_of_a_class_below_has_the_same_range():
    @dataclass(frozen=True)
    class Below(Mine):
        steps: int = 20

    assert Below().steps == 20
    with pytest.raises(UserError, match=r"^attack\.steps=0 must be a whole number from 1$"):
        Below(steps=0)
    with pytest.raises(UserError, match=r"^certifier\.method='beta' is unknown; choose one of ibp"):
        MixingBounds(method="beta")
