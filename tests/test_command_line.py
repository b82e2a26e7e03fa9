"""One clear line for each slip on the command line, and what was meant where that can be told."""

import subprocess
import sys
from fractions import Fraction

import pytest
from hydra import compose, initialize_config_dir

import gauntlet
from gauntlet.__main__ import main as console
from gauntlet.commands.command_line import arranged, free_text
from gauntlet.commands.run import main
from gauntlet.commands.train import main as train
from gauntlet.config.shipped import CONF
from gauntlet.errors import UserError
from gauntlet.threat_model.eps import parse_eps
from gauntlet.threat_model.threat import Threat

SLIPS = [
    (["checkpoint=${oc.env:NOSUCH}"], "checkpoint: the environment has no variable NOSUCH; export it"),
    (["attack.steps=${nosuch:1}"], "attack.steps: there is no interpolation ${nosuch:...}; write the value"),
    (["attack.steps=${attack.steps}"], "attack.steps: it refers to itself; write the value"),
    (["dataset=arrays", "dataset.path=x.npz"], "dataset.classes: it has no default; write dataset.classes=VALUE"),
    (["runtime.device=meta"], "runtime.device=meta is not there; use runtime.device=cpu or auto"),
    (["--nosuch"], "there is no flag --nosuch; options are written key=value, without dashes"),
    (["-x"], "there is no flag -x; options are written key=value"),
    (["--multirum", "seed=1"], "there is no flag --multirum; did you mean --multirun?"),
    (["a=b", "-m", "attack=x,y"], "there is no attack=x"),
    (["a=b", "-m", "attack=pgd,fgsm"], "unknown option a"),
    (["attack.stps=3"], "unknown option attack.stps; did you mean attack.steps?"),
    (["datset=mnist"], "unknown option datset; did you mean dataset?"),
    (["eps=8/255"], "unknown option eps; did you mean threat.eps?"),
    (["attack=PGD"], "there is no attack=PGD (did you mean pgd?)"),
    (["defense=trade"], "there is no defense=trade (did you mean trades?)"),
    (["name=ours, with EMA", "paper=it's (new)", "attack=PGD"], "there is no attack=PGD (did you mean pgd?)"),
    (["attack.step_size=2/255"], "it takes a number (first step as a multiple of eps"),
]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)


@pytest.mark.parametrize(("words", "said"), SLIPS, ids=lambda it: it[0] if isinstance(it, list) else "")
def test_a_slip_costs_one_clear_line(words, said, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py"])
    try:
        status = main([*words, f"runs_dir={tmp_path}", "runtime.progress=false"])
    except SystemExit as end:  # of a job that was refused
        status = end.code
    found = capsys.readouterr()
    assert status == 1
    assert said in found.err
    assert found.err.count("\n") == 1
    assert not found.out


def test_train_offers_its_own_options(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    assert train(["recipe.epoch=3"]) == 1
    assert "did you mean recipe.epochs?" in capsys.readouterr().err


def test_flags_may_stand_anywhere():
    assert arranged(["a=1", "-m", "b=2", "--config-dir", "x", "--cfg=job"]) == [
        "-m", "--config-dir", "x", "--cfg=job", "a=1", "b=2",
    ]  # fmt: skip
    assert arranged(["--info", "a=1"]) == ["--info", "a=1"]
    assert arranged(["--cfg", "job", "-sc", "query=bash"]) == ["--cfg", "job", "-sc", "query=bash"]


def test_functions_need_assertions():
    code = "import sys; from gauntlet.commands.run import main; sys.exit(main(['-m', 'seed=range(0,2)']))"
    done = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "unset PYTHONOPTIMIZE" in done.stderr


def test_the_version_is_told(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py"])
    assert main(["--version"]) == train(["--version"]) == console(["run", "--version"]) == 0
    assert capsys.readouterr().out == f"gauntlet {gauntlet.__version__}\n" * 3


@pytest.mark.parametrize(
    ("eps", "value"),
    [("0.5/255", Fraction(1, 510)), ("8/255", Fraction(8, 255)), (".25/2", Fraction(1, 8)), ("2/4", Fraction(1, 2))],
)
def test_an_eps_may_be_a_decimal_over_an_integer(eps, value):
    assert parse_eps(eps) == value
    assert Threat("linf", eps).radius == float(value)


@pytest.mark.parametrize("eps", ["1/0.5", "1e3/255", "a/2", "1/0", "0/255", "-1/255", "1/2/3"])
def test_other_fractions_are_refused(eps):
    with pytest.raises(UserError, match=r"write for example threat.eps=8/255"):
        parse_eps(eps)


def test_a_choice_with_its_ending_is_the_same_run(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["run.py"])
    for name in ("fgsm", "fgsm.yaml"):
        assert main([f"attack={name}", "dataset.limit=8", f"runs_dir={tmp_path}", "runtime.progress=false"]) == 0
    assert len(list(tmp_path.rglob("run.json"))) == 1


def test_free_text_is_taken_as_it_stands():
    given = ["name=ours, with EMA", "authors=A. B, C's", "paper=null", "link='quoted, once'", "attack=pgd,fgsm"]
    found = free_text(given)
    assert found == ["name='ours, with EMA'", "authors='A. B, C\\'s'", *given[2:]]
    with initialize_config_dir(CONF, version_base=None):
        cfg = compose("run", found[:4])
    assert (cfg.name, cfg.authors, cfg.link) == ("ours, with EMA", "A. B, C's", "quoted, once")
    assert free_text(["-m", *given]) == ["-m", *given]  # a sweep means the list
