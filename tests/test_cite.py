"""Every source that a shipped method names has a BibTeX entry, and a run's are printed."""

import re
from pathlib import Path

import pytest
import yaml

from gauntlet import __version__
from gauntlet.commands.cite import IDENTIFIER, entries, main, places, sources
from gauntlet.config.shipped import CONF

ROOT = Path(__file__).parent.parent
OURS = {"Gauntlet", "Undefended", "TrainedNetwork", "SmallCNN", "CalibrationData", "Mixture", "Claimed"}


@pytest.mark.parametrize(
    "path", sorted(p for g in ("attack", "defense", "certifier") for p in Path(CONF).glob(f"{g}/*.yaml"))
)
def test_the_first_class_of_a_choice_has_a_source_with_an_entry(path: Path) -> None:
    named = [place for place in re.findall(r"_target_: (\S+)", path.read_text()) if place.startswith("gauntlet.")]
    if not named or named[0].rpartition(".")[2] in OURS or "foreign" in path.stem:
        pytest.skip("a variant of another choice, or our own")
    known = entries()
    found = sources(named[0])
    assert found, f"{named[0]} names no source"
    assert not [source for source in found if source not in known]


def test_every_identifier_of_the_methods_has_an_entry() -> None:
    known = entries()
    files = [*(ROOT / "attacks").rglob("*.py"), *(ROOT / "defenses").rglob("*.py")]
    assert {i for path in files for i in IDENTIFIER.findall(path.read_text())} <= set(known)


def test_entries_are_whole() -> None:
    text = (ROOT / "gauntlet/commands/references.bib").read_text()
    found = set(entries().values())
    assert text.count("\n@") == len(found)
    keys = [re.match(r"@\w+\{([^,]+),", entry)[1] for entry in found]
    assert len(set(keys)) == len(keys)
    assert all(entry.count("{") == entry.count("}") for entry in found)
    assert all(f"  {field} = {{" in entry for entry in found for field in ("author", "title", "year"))


def test_a_run_is_cited(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    runs = sorted((ROOT / "tests/data_0_1_0").rglob("run.json"))
    assert main([str(runs[0].parent)]) == 0
    assert "@misc{" in capsys.readouterr().out
    assert main([str(tmp_path)]) == 1
    assert "there is no run in" in capsys.readouterr().err


def test_classes_of_others_are_named_and_not_read() -> None:
    assert sources("os.path.join") == []
    assert list(places({"a": [{"_target_": "user:models.Net", "b": {"_target_": "gauntlet.x.Y"}}]})) == [
        "user:models.Net", "gauntlet.x.Y",
    ]  # fmt: skip


def test_the_citation_file_names_this_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
