"""Imports point one way, room by room; no module goes by two names; what reads evidence needs no torch."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINKED = ("attacks", "conf", "defenses", "leaderboard")
"""Folders at the top that are linked into the package."""

ROOMS = (
    "errors", "knobs", "system", "evidence", "metrics", "threat_model", "data", "config", "models", "tracking",
    "attacks", "certification", "training", "evaluation", "transfer", "sanity_checks", "defenses", "jobs",
    "verification", "cluster", "leaderboard", "commands", "api", "__main__",
)  # fmt: skip
"""From the lowest to the highest; each imports from itself and from lower ones."""

LEADERBOARD = {"errors", "evidence", "metrics", "leaderboard", "system"}
"""All that the leaderboard may import."""

FIRST_NAMES = {"attacks", "certification", "conf", "defenses", "harness", "leaderboard", "models", "training"}
"""Names that no import may begin with: a user's own packages may have them."""


def sources():
    """Name -> file of every module of the package, each once."""
    found = {}
    for folder in ("gauntlet", *LINKED):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not any(parent.is_symlink() for parent in path.parents):
                parts = list(path.relative_to(ROOT).with_suffix("").parts)
                parts = parts if parts[0] == "gauntlet" else ["gauntlet", *parts]
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


SOURCES = sources()


def imports(path):
    """Full names of what a file imports of the package, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for name in node.names:
                inner = f"{node.module}.{name.name}"
                yield inner if inner in SOURCES else node.module


def room(module):
    return module.split(".")[1] if "." in module else module


@pytest.mark.parametrize("name", ROOMS)
def test_imports_point_one_way(name):
    mine = [module for module in SOURCES if room(module) == name]
    assert mine, f"the room {name} is empty"
    for module in mine:
        for other in imports(SOURCES[module]):
            if other.startswith("gauntlet."):
                assert ROOMS.index(room(other)) <= ROOMS.index(name), f"{module} imports {other}"


def test_every_file_is_in_a_room():
    assert {room(module) for module in SOURCES} - {"gauntlet"} == set(ROOMS)


def test_no_imports_in_a_circle():
    graph = {module: {it for it in imports(path) if it in SOURCES} - {module} for module, path in SOURCES.items()}
    graph["gauntlet"].clear()  # settings that must stand first, which import nothing; names imported when asked for
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as cycle:
        pytest.fail(" -> ".join(cycle.args[1]))


def test_the_leaderboard_reads_evidence_and_metrics_alone():
    for module, path in SOURCES.items():
        if room(module) == "leaderboard":
            assert {room(it) for it in imports(path) if it.startswith("gauntlet.")} <= LEADERBOARD, module


@pytest.mark.parametrize("folder", ["gauntlet", *LINKED, "tests", "benchmarks", "run.py", "train.py"])
def test_the_package_goes_by_its_own_name(folder):
    place = ROOT / folder
    for path in [place] if place.is_file() else place.rglob("*.py"):
        for name in imports(path):
            assert name.split(".")[0] not in FIRST_NAMES, f"{path}: {name}"


def test_no_module_is_loaded_under_two_names():
    code = (
        "import importlib, sys\n"
        f"for name in {sorted(SOURCES)!r}: name.endswith('__main__') or importlib.import_module(name)\n"
        "from pathlib import Path\n"
        "files = {}\n"
        "for name, module in list(sys.modules.items()):\n"
        "    file = getattr(module, '__file__', None)\n"
        f"    if file and Path(file).resolve().is_relative_to({str(ROOT)!r}) and '.venv' not in file:\n"
        "        files.setdefault(Path(file).resolve(), set()).add(name)\n"
        "twice = {names for names in map(frozenset, files.values()) if len(names) > 1}\n"
        "assert not twice, twice\n"
        f"assert len(files) >= {len(SOURCES)} - 2\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "module",
    [
        "__main__",
        "leaderboard.__main__",
        "evidence.run_folder",
        "metrics.certificate_summary",
        "commands.run",
        "commands.train",
        "commands.status",
        "commands.curves",
        "commands.board",
    ],
)
def test_torch_is_not_imported(module):
    code = f"import sys, importlib; importlib.import_module('gauntlet.{module}'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_files_stay_small():
    assert not {str(p): n for p in SOURCES.values() if (n := len(p.read_text().splitlines())) > 300}


def test_a_class_has_a_name_of_its_own():
    places = {}
    for module, path in SOURCES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(module)
    assert len(places) > 300
    assert not {name: modules for name, modules in places.items() if len(modules) > 1}
