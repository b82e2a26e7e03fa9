"""The wheel holds `gauntlet` alone and works from anywhere; so does a checkout that cannot be written."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TINY = ["attack=fgsm", "dataset.limit=4", "runtime.progress=false", "runs_dir=out"]


def built(tree, out, target):
    """The wheel or source distribution of a tree."""
    code = f"import hatchling.build as b; print(b.build_{target}({str(out)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.split()[-1]


def tree_of(folder):
    """A copy of what the version control knows or would know."""
    done = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("no git checkout")
    for name in filter(None, done.stdout.decode().split("\0")):
        source, place = ROOT / name, folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            place.symlink_to(source.readlink())
        elif source.exists() and not place.exists():
            shutil.copy2(source, place)
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling", reason="pip install hatchling")
    return built(tree_of(tmp_path_factory.mktemp("tree")), tmp_path_factory.mktemp("wheel"), "wheel")


def names(path):
    return sorted(name for name in zipfile.ZipFile(path).namelist() if ".dist-info/" not in name)


def test_the_wheel_holds_one_package(wheel):
    held = names(wheel)
    assert {name.split("/")[0] for name in held} == {"gauntlet"}
    for name in (
        "attacks/pgd.py", "defenses/none.py", "leaderboard/build.py", "conf/run.yaml", "conf/attack/pgd.yaml",
        "models/zoo/README.md", "__main__.py",
    ):  # fmt: skip
        assert f"gauntlet/{name}" in held
    assert any(name.startswith("gauntlet/leaderboard/templates/") for name in held)
    assert any(name.startswith("gauntlet/leaderboard/static/") for name in held)
    assert sum(name.endswith(".safetensors") for name in held) == len(
        list(ROOT.glob("gauntlet/models/zoo/*.safetensors"))
    )


def test_the_source_distribution_gives_the_same_wheel(wheel, tmp_path):
    source = built(tree_of(tmp_path / "tree"), tmp_path, "sdist")
    with tarfile.open(source) as file:
        file.extractall(tmp_path / "unpacked", filter="data")
    (inside,) = (tmp_path / "unpacked").iterdir()
    assert names(built(inside, tmp_path, "wheel")) == names(wheel)


def call(place, folder, *words):
    return subprocess.run(
        [sys.executable, "-P", "-m", "gauntlet", *words], cwd=folder, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(place)}, timeout=200,
    )  # fmt: skip


def test_the_wheel_works_from_any_folder(wheel, tmp_path):
    place, folder = tmp_path / "site", tmp_path / "elsewhere"
    folder.mkdir()
    zipfile.ZipFile(wheel).extractall(place)  # all that an installation without dependencies does
    for words in (["run", *TINY], ["verify", "out"], ["board", "--runs", "out", "--out", "page"]):
        done = call(place, folder, *words)
        assert done.returncode == 0, done.stderr
    assert (folder / "page" / "index.html").exists()


def test_a_checkout_that_cannot_be_written_works(tmp_path):
    tree, folder = tree_of(tmp_path / "tree"), tmp_path / "elsewhere"
    folder.mkdir()
    places = [tree, *(path for path in tree.rglob("*") if path.is_dir() and not path.is_symlink())]
    for place in places:
        place.chmod(0o555)
    try:
        done = subprocess.run(
            [sys.executable, str(tree / "run.py"), *TINY], cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        for place in places:
            place.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert list(folder.rglob("run.json"))
