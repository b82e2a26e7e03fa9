"""Options of swept choices: which words of a command line are forced, and which are refused."""

import pytest

from gauntlet.cluster.sweep_overrides import prepared
from gauntlet.errors import UserError


@pytest.mark.parametrize(
    ("line", "forced"),
    [
        ("-m attack=square,rays attack.queries=5", ["attack.queries=5"]),
        ("-m attack=square,rays attack.queries=5,10", ["attack.queries=5,10"]),
        ("--multirun attack=choice(square,rays) attack.queries=5 threat=l2", ["attack.queries=5"]),
        ("attack=pgd,square hydra.mode=MULTIRUN", []),
        ("-m attack=autoattack,autoattack_plus attack.stages.square.queries=5", ["attack.stages.square.queries=5"]),
        ("-m threat=linf,l2 threat.eps=1", ["threat.eps=1"]),
        ("-m attack=square,rays ++attack.queries=5", []),
        ("-m attack=square attack.queries=5,10", []),
        ("attack=square attack.queries=5", []),
        ("attack=square,rays attack.queries=5", []),
        ("-m seed=1,2 attack=pgd", []),
        ("-m seed=null,1 attack=pgd", []),
        ("-m surrogates=[],[torchvision] attack=pgd", []),
        ("-m attack=square,[ attack.queries=5", []),
        ("-m attack=glob(*) attack.queries=5", ["attack.queries=5"]),
        ("--help", []),
    ],
)
def test_options_of_swept_choices_are_forced(line, forced):
    words = line.split()
    assert prepared(words) == [f"++{word}" if word in forced else word for word in words]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "-m attack=pgd,square,mi attack.steps=5",
            r"attack.steps=5: attack=square has no steps; sweep attack=pgd,mi with",
        ),
        ("-m attack=square,rays attack.querries=5", r"unknown option attack.querries: .*did you mean queries\?"),
        ("-m attack=square,rays attack.zzz=5", r"has no such; --cfg job attack=square shows"),
        ("-m attack=pgd,arcc defense=none", r"there is no attack=arcc \(did you mean arc\?\); the choices are a3, "),
        ("-m attack=pgd defense=none,qqqq", r"there is no defense=qqqq; the choices are "),
        ("-m attack=pgd,null", "attack=null: a choice must be a name; --help lists them"),
        ("-m attack=square,nothing attack.queries=5", r"there is no attack=nothing"),
        ("-m attack=autoattack,pgd attack.stages.square.queries=5", "attack=pgd has no stages.square.queries; sweep"),
    ],
)
def test_a_choice_that_is_not_there_or_lacks_the_option_is_named(line, said):
    with pytest.raises(UserError, match=said) as caught:
        prepared(line.split())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", ["hydra.searchpath=[file://{}]", "--config-dir {}"])
def test_choices_of_the_user_are_found(tmp_path, how):
    (tmp_path / "attack").mkdir()
    (tmp_path / "attack" / "corner.yaml").write_text("_target_: mine.corner.Corner\ntries: 10\n")
    words = [*how.format(tmp_path).split(), "-m", "attack=corner,square"]
    with pytest.raises(UserError, match="attack=square has no tries"):
        prepared([*words, "attack.tries=5"])
