"""`--help`: every choice in one line of words, the user's own included, and every option with its unit."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gauntlet.commands.choices import LARGEST
from gauntlet.commands.help_page import field_words, help_page
from gauntlet.commands.run import main
from gauntlet.config.shipped import CONF

FILES = sorted(Path(CONF).glob("*/*.yaml")) + sorted(Path(CONF).glob("hydra/launcher/*.yaml"))


def entry_of(page, name):
    """The line of a choice."""
    (line,) = [line for line in page.splitlines() if re.match(rf"[ *]+{name}  +\S", line)]
    return " ".join(line.split())


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_yaml_begins_with_a_line_about_itself(file):
    first = file.read_text().partition("\n")[0]
    assert re.match(r"# \S.{5,}[^.\s]$", first), first
    assert len(first) <= 105


@pytest.mark.parametrize(
    ("program", "left_out"),
    [("run", set()), ("train", {"attack", "certifier", "defense", "protocol", "stop_when", "threat"})],
)
def test_every_choice_has_its_words(program, left_out):
    page = help_page(program, [])
    for file in FILES:
        shown = " ".join(file.read_text().partition("\n")[0].removeprefix("# ").split())
        assert (shown in page) == (file.parent.name not in left_out), file


def test_attacks_stand_by_kind_with_the_default_and_the_recommended():
    page = help_page("run", [])
    attacks = page.split("\nattack\n")[1].split("\n\n")[0].splitlines()
    kinds = [line.strip() for line in attacks if re.fullmatch(r"  [a-z ]+", line)]
    assert kinds == sorted(kinds)
    assert {"gradient", "black box", "minimum norm", "transfer", "universal", "suites", "randomized ensembles"} == set(
        kinds
    )
    assert entry_of(page, "pgd").endswith("(default)")
    assert entry_of(page, "gauntlet").startswith("* gauntlet ")
    assert entry_of(page, "admix").startswith("admix Momentum ascent on mixtures")
    assert attacks.index("  transfer") < attacks.index(next(it for it in attacks if " admix " in it))


def test_train_marks_its_own_defaults():
    page = help_page("train", [])
    assert entry_of(page, "standard").endswith("(default)")
    assert entry_of(page, "training").endswith("(default)")
    assert not entry_of(page, "default").endswith("(default)")


def test_options_say_their_unit():
    page = help_page("run", [])
    assert "  step_size: 0.1  # first step as a multiple of eps, > 0\n" in page
    assert "queries: 5000" in help_page("run", ["attack=square"])
    assert "path: ???  # the folder of the set" in help_page("run", ["dataset=imagefolder"])  # with a gap to fill
    assert field_words("gauntlet.defenses.mixing.Mixing")
    assert field_words("os.system") == {}


def own_folder(tmp_path):
    (tmp_path / "attack").mkdir()
    (tmp_path / "attack" / "soft.yaml").write_text("# PGD in small steps\ndefaults: [pgd, _self_]\nstep_size: 0.01\n")
    (tmp_path / "attack" / "mine.yaml").write_text("_target_: mine.attacks.Mine\n")
    (tmp_path / "attack" / "lab").mkdir()
    (tmp_path / "attack" / "lab" / "long.yaml").write_text("# PGD in many steps\ndefaults: [/attack/pgd]\nsteps: 99\n")
    (tmp_path / "shade").mkdir()
    (tmp_path / "shade" / "dark.yaml").write_text("# Dark images\nx: 1\n")
    return tmp_path


@pytest.mark.parametrize("way", ["hydra.searchpath=[file://{}]", "--config-dir={}"])
def test_the_users_own_choices_are_listed(way, tmp_path):
    page = help_page("run", [way.format(own_folder(tmp_path))])
    assert entry_of(page, "soft") == "soft PGD in small steps (yours)"
    assert entry_of(page, "mine") == "mine mine.attacks.Mine (yours)"
    assert entry_of(page, "dark") == "dark Dark images (yours)"
    assert entry_of(page, "lab/long") == "lab/long PGD in many steps (yours)"
    attacks = page.split("\nattack\n")[1].split("\n\n")[0].splitlines()
    last = attacks[attacks.index("  your own") + 1 :]  # those whose class is the user's, or not known
    assert any("mine" in line for line in last)


def test_an_odd_file_of_the_user_leaves_the_page_whole(tmp_path):
    folder = own_folder(tmp_path) / "attack"
    (folder / "bytes.yaml").write_bytes(b"\xff\xfe\n")
    (folder / "empty.yaml").write_text("")
    (folder / "round.yaml").write_text("defaults: [round]\n")
    (folder / "long.yaml").write_text("# long\n" + "a: 1\n" * LARGEST)
    page = help_page("run", [f"--config-dir={tmp_path}"])
    for name in ("bytes", "empty", "round", "long"):
        assert re.search(rf"^ +{name}\b", page, re.MULTILINE)


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--hel"], ["attack=fmn", "--help"]])
def test_it_is_printed(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py"])
    assert main(words) == 0
    found = capsys.readouterr()
    assert "== Choices" in found.out
    assert not found.err


def test_a_slip_beside_it_costs_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py"])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    assert main(["--help", "attack=PGD"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: there is no attack=PGD (did you mean pgd?)")
    assert said.count("\n") == 1


@pytest.mark.parametrize("program", ["run", "train"])
def test_no_torch_is_imported(program):
    code = (
        "import sys; from importlib import import_module as get\n"
        f"get('gauntlet.commands.{program}').main(['--help']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
