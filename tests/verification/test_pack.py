"""A pack is made here and checked elsewhere; a hostile one touches nothing."""

import json
import shutil
import stat
import subprocess
import zipfile
from pathlib import Path

import pytest

from gauntlet.evidence.run_folder import RunFolder
from gauntlet.jobs.certification_job import certify
from gauntlet.verification import verify
from gauntlet.verification.pack import main as pack
from gauntlet.verification.pack_format import CONTENT
from tests.program_server import call
from tests.verification.test_forgeries import TRAINED, attacked, composed

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a network that was trained here."""
    return attacked(tmp_path_factory.mktemp("runs"), *TRAINED)


@pytest.fixture(scope="module")
def packed(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("packs") / "run.zip"
    assert pack([str(run.path), "--out", str(out)]) == 0
    return out


def elsewhere(folder, *words):
    """What a fresh process says in another folder, with a home and a runs folder of its own."""
    folder.mkdir(exist_ok=True)
    state = {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(folder / "state"), "HOME": str(folder)}
    return call(*words, script="-m gauntlet", place=folder, **state)


def test_a_pack_is_verified_in_a_fresh_process_in_another_folder(packed, run, tmp_path):
    moved = tmp_path / "there" / "evidence.zip"
    moved.parent.mkdir()
    shutil.move(shutil.copy(packed, tmp_path), moved)
    hidden = run.path.parents[4].rename(tmp_path / "hidden")  # nothing of the place where it was made is left
    try:
        done = elsewhere(moved.parent, "verify", moved, "--replay", "6")
    finally:
        hidden.rename(run.path.parents[4])
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.startswith("verified (replayed 6 of ")
    assert done.stdout.split("\n")[0].endswith(str(moved))
    assert "training was not repeated" in done.stdout
    assert sorted(path.name for path in moved.parent.iterdir()) == ["evidence.zip"]


def test_the_same_run_gives_the_same_bytes_and_the_command_goes_along(packed, run, tmp_path):
    assert pack([str(run.path), "--out", str(tmp_path / "again.zip")]) == 0
    assert (tmp_path / "again.zip").read_bytes() == packed.read_bytes()
    with zipfile.ZipFile(packed) as archive:
        content = json.loads(archive.read(CONTENT))
        assert not any("images" in name for name in archive.namelist())
    assert content["command"] == run.manifest()["command"]
    assert content["weights"] == run.manifest()["weights"]


def test_without_weights_the_runs_folder_is_named(run, tmp_path, capsys):
    out = tmp_path / "slim.zip"
    assert pack([str(run.path), "--out", str(out), "--no-weights"]) == 0
    assert verify.main([str(out)]) == 1
    assert "the weights of model are gone" in capsys.readouterr().err
    assert verify.main([str(out), "--set", f"runs_dir={run.path.parents[4]}"]) == 0


def test_images_go_along_where_asked_for_and_it_is_said_what_they_prove(run, tmp_path, capsys):
    out = tmp_path / "whole.zip"
    assert pack([str(run.path), "--out", str(out), "--images"]) == 0
    assert verify.main([str(out), "--replay", "4"]) == 0
    said = capsys.readouterr().out
    assert "the images are those of the pack; that they are the data set's was not checked" in said
    assert "its validation accuracy was not measured again (the pack holds the images under attack alone" in said


def test_a_checkpoint_and_data_that_lie_elsewhere_can_be_named(run, tmp_path, capsys):
    weights = next((run.path.parents[4] / "_trained").rglob("best.safetensors"))
    file, moved = tmp_path / "mine.safetensors", tmp_path / "moved.safetensors"
    shutil.copy(weights, file)
    own = attacked(tmp_path / "runs", f"checkpoint={file}")
    out = tmp_path / "own.zip"
    assert pack([str(own.path), "--out", str(out)]) == 0
    file.rename(moved)
    assert verify.main([str(out)]) == 0  # the file is in the pack
    assert "without a record of their training" in capsys.readouterr().out
    lone = tmp_path / "lone" / own.path.name
    shutil.copytree(own.path, lone)
    assert verify.main([str(lone)]) == 1
    assert verify.main([str(lone), "--set", f"checkpoint={moved}"]) == 0
    assert "copied out of its runs folder" in capsys.readouterr().out
    assert verify.main([str(lone), "--set", "attack.steps=1"]) == 1
    assert "is no place" in capsys.readouterr().err
    assert verify.main([str(lone), "--set", "checkpoint"]) == 1
    assert "is not KEY=VALUE" in capsys.readouterr().err


def test_certificates_and_transfer_runs_are_packed_with_what_belongs_to_them(tmp_path):
    choices = {"certifier": "smoothing", "defense": "gaussian_smoothing", "model": "small_cnn"}
    words = ["certifier=smoothing", "~attack", "defense=gaussian_smoothing", "threat=l2", "threat.eps=1"]
    certificates = certify(
        composed(tmp_path / "a", *words, "certifier.samples=200", "dataset.limit=6"), choices, "python run.py"
    ).run
    transfer = attacked(
        tmp_path / "b", "attack=mi", "attack.steps=2", "+defense@surrogates.plain=none", "dataset.limit=20",
        attack="mi",
    )  # fmt: skip
    for number, each in enumerate((certificates, transfer)):
        out = tmp_path / f"{number}.zip"
        assert pack([str(each.path), "--out", str(out)]) == 0
        each.path.parents[4].rename(tmp_path / f"gone{number}")
        assert verify.main([str(out), "--full"]) == 0


def hostile(packed, tmp_path, change, compression=zipfile.ZIP_STORED):
    """Return a pack with other members."""
    out = tmp_path / "hostile.zip"
    with zipfile.ZipFile(packed) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in members.items():
            info = name if isinstance(name, zipfile.ZipInfo) else zipfile.ZipInfo(name)
            archive.writestr(info, data, compression)
    return out


def listed(members, name, data=b"x"):
    """Add a file that pack.json lists."""
    import hashlib

    content = json.loads(members[CONTENT])
    content["files"][name] = [len(data), f"sha256:{hashlib.sha256(data).hexdigest()}"]
    members |= {name: data, CONTENT: json.dumps(content).encode()}


def edited(**fields):
    def change(members):
        members[CONTENT] = json.dumps(json.loads(members[CONTENT]) | fields).encode()

    return change


def link(members):
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    members[info] = b"/etc/passwd"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: listed(m, "../outside"), "may not be there"),
        (lambda m: listed(m, "/absolute"), "may not be there"),
        (lambda m: listed(m, "a/../../b"), "may not be there"),
        (lambda m: listed(m, "a\\..\\b"), "may not be there"),
        (lambda m: listed(m, "C:x"), "may not be there"),
        (link, "may not be there"),
        (lambda m: m.update(extra=b""), "its files are not those of its pack.json"),
        (lambda m: m.pop(CONTENT), "it has no pack.json"),
        (lambda m: m.update({CONTENT: b"{"}), "its pack.json"),
        (edited(version=9), "it is of version 9"),
        (edited(place=["a", "b", "..", "d", "e"]), "names a/b/../d/e"),
        (edited(places={"checkpoint": "../x"}), "names ../x"),
        (edited(places={"dataset.path": "runs"}), "which is none of weights and sets"),
        (edited(files=[]), "its pack.json"),
        (lambda m: m.update({next(n for n in m if n.endswith("run.json")): b"{}"}), "is not the file that was packed"),
    ],
)
def test_a_hostile_pack_is_refused_in_one_line(packed, tmp_path, change, words, capsys):
    out = hostile(packed, tmp_path, change)
    assert verify.main([str(out)]) == 1
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1
    assert not said.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hostile.zip"]


def test_what_is_compressed_is_refused_before_it_grows(packed, tmp_path, capsys):
    out = hostile(packed, tmp_path, lambda members: listed(members, "bomb", bytes(1 << 20)), zipfile.ZIP_DEFLATED)
    assert verify.main([str(out)]) == 1
    assert "may not be there" in capsys.readouterr().err


def test_what_is_no_pack_gets_one_line(tmp_path, capsys):
    (tmp_path / "text.zip").write_text("no archive")
    assert verify.main([str(tmp_path / "text.zip")]) == 1
    assert "is no pack" in capsys.readouterr().err
    assert pack([str(tmp_path)]) == 1
    assert "is not a run folder" in capsys.readouterr().err


def test_an_unfinished_run_is_not_packed(run, tmp_path, capsys):
    copy = RunFolder(tmp_path / "copy")
    shutil.copytree(run.path, copy.path)
    copy.update({**copy.manifest(), "status": "running"})
    assert pack([str(copy.path), "--out", str(tmp_path / "x.zip")]) == 1
    assert "is not finished" in capsys.readouterr().err
    assert not (tmp_path / "x.zip").exists()


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="there is no ssh-keygen")
def test_a_signature_names_who_packed(run, tmp_path, capsys):
    for name in ("ann", "bob"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    signers = tmp_path / "signers"
    signers.write_text(f"ann@example.org {(tmp_path / 'ann.pub').read_text()}")
    out = tmp_path / "signed.zip"
    assert pack([str(run.path), "--out", str(out), "--sign", str(tmp_path / "ann")]) == 0
    assert verify.main([str(out), "--signers", str(signers)]) == 0
    assert f"signed by ann@example.org: {out}" in capsys.readouterr().out
    assert pack([str(run.path), "--out", str(out), "--sign", str(tmp_path / "bob")]) == 0
    assert verify.main([str(out), "--signers", str(signers)]) == 1
    assert "is not signed by anybody of" in capsys.readouterr().err
    assert pack([str(run.path), "--out", str(out), "--sign", str(tmp_path / "ann")]) == 0
    with out.open("ab") as file:
        file.write(b"more")
    assert verify.main([str(out), "--signers", str(signers)]) == 1
    assert "is not signed by ann@example.org of" in capsys.readouterr().err
    (tmp_path / "signed.zip.sig").unlink()
    assert verify.main([str(out), "--signers", str(signers)]) == 1
    assert "there is no signature" in capsys.readouterr().err
