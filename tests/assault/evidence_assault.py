"""Damaged, foreign and hostile evidence: every program says one line, shows the other runs, and raises nothing."""

import shutil

import pytest

from gauntlet.commands import status
from gauntlet.errors import UserError
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.leaderboard.build import build
from gauntlet.verification import verify
from tests.assault.damage import KINDS
from tests.verification.test_verify import made

SOUND = "untouched"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return made(tmp_path_factory.mktemp("sound"), "dataset.limit=8", "runtime.chunk=4")


def damaged(sound, folder, kinds):
    """Make a runs folder with a copy of a run for each kind, and one that is left as it is; kind -> its place."""
    tail, places = sound.path.parts[-4:], {}
    for number, kind in enumerate([SOUND, *kinds]):
        places[kind] = folder.joinpath(f"digits{number}", *tail)
        shutil.copytree(sound.path, places[kind])
        if kind != SOUND:
            KINDS[kind](places[kind])
    return places


def assert_plain(said):
    """No traceback, and no sign that steers a terminal."""
    assert "Traceback" not in said
    assert all(line.isprintable() for line in said.splitlines())


def check_readers(sound, folder, kinds, capsys):
    places = damaged(sound, folder / "runs", kinds)
    status.main([str(folder / "runs")])
    said = capsys.readouterr()
    assert_plain(said.out + said.err)
    assert len([line for line in said.out.splitlines() if "digits0" in line]) == 1
    build(folder / "runs", folder / "site")
    said = capsys.readouterr()
    assert_plain(said.out + said.err)
    assert "digits0" in "".join(page.read_text() for page in (folder / "site").rglob("*.html"))
    assert verify.main([str(folder / "runs")]) == 1
    said = capsys.readouterr()
    assert_plain(said.out + said.err)
    for kind, place in places.items():
        about = [line for line in (said.out + said.err).splitlines() if str(place) in line]
        assert about, kind


def check_run(sound, folder, kind):
    """The same command refuses the damage in one line, or mends it."""
    place = folder.joinpath(*sound.path.parts[-5:])
    shutil.copytree(sound.path, place)
    KINDS[kind](place)
    try:
        again = made(folder, "dataset.limit=8", "runtime.chunk=4")
    except UserError as cause:
        said = str(cause)
    else:
        said = ""
    if said:
        assert "\n" not in said
        return
    for chunk in range(2):
        assert again.read_part(chunk).equals(sound.read_part(chunk))
        assert again.read_examples(chunk)["z"].tobytes() == sound.read_examples(chunk)["z"].tobytes()


def test_readers_survive_every_kind(sound, tmp_path, capsys):
    assert len(KINDS) >= 71
    check_readers(sound, tmp_path, KINDS, capsys)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_command_refuses_or_mends_every_kind(sound, tmp_path, kind):
    check_run(sound, tmp_path, kind)


def test_a_part_of_another_seed_is_done_again(sound, tmp_path):
    other = made(tmp_path / "other", "dataset.limit=8", "runtime.chunk=4", "seed=1")
    place = tmp_path.joinpath("runs", *sound.path.parts[-5:])
    shutil.copytree(sound.path, place)
    for mine, foreign in zip(sorted(place.rglob("part-*")), sorted(other.path.rglob("part-*")), strict=True):
        shutil.copy(foreign, mine)
    made(tmp_path / "runs", "dataset.limit=8", "runtime.chunk=4")
    run = RunFolder(place)
    assert all(run.read_part(chunk).equals(sound.read_part(chunk)) for chunk in range(2))
    assert len(list(place.glob("records/*.damaged"))) == 2
