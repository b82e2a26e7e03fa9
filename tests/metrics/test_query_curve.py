"""Success against queries, from records written by hand."""

import csv
import math
import shutil

import numpy as np
import pytest

from gauntlet.commands import queries
from gauntlet.errors import UserError
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.schema import rows as records
from gauntlet.metrics.query_curve import BUDGETS, QueryCurve, curve

MANIFEST = {
    "schema_version": 1, "status": "done", "kind": "attack", "command": "python run.py attack=square", "config": {},
    "name": {"dataset": "digits", "threat": "linf-0.1", "defense": "none", "attack": "square"}, "config_hash": "0",
    "victim": "0", "threat": {"norm": "linf", "radius": 0.1}, "heads": "declared", "access": "score", "weights": {},
    "dataset": {"name": "digits", "digest": "0", "selection": "all", "samples": 8}, "card": {},
    "stages": ["clean", "square/true", "rays/true"], "chunk": 4, "chunks": 2, "device": "cpu",
}  # fmt: skip


def write(folder, parts, **changes):
    """parts: for each chunk, rows of (sample, stage, broken, forwards, error)."""
    run = RunFolder(folder)
    run.create(Manifest(**(MANIFEST | changes)))
    for number, part in enumerate(parts):
        sample, stage, broken, forwards, error = zip(*part, strict=True)
        zeros = [0] * len(part)
        backwards = [changes.get("backwards", 0)] * len(part)
        same = dict.fromkeys(
            ("label", "clean_pred", "pred", "distance", "margin", "zero_gradients", "bad_gradients"), zeros
        )
        told = {"sample": sample, "stage": stage, "broken": broken, "forwards": forwards, "error": error}
        run.write_part(number, records(same | told | {"backwards": backwards}), {})
    return run


def clean(*samples, wrong=()):
    return [(sample, "clean", sample in wrong, 0, None) for sample in samples]


@pytest.fixture
def run(tmp_path):
    """Six samples: one wrong, one broken by each stage, one that stands, one in error, one that is broken late."""
    first = [*clean(0, 1, 2, wrong=[0]), (1, "square/true", True, 49, None), (2, "square/true", False, 500, None),
             (2, "rays/true", True, 99, None)]  # fmt: skip
    second = [*clean(3, 4, 5), (3, "square/true", False, 500, None), (3, "rays/true", False, 2500, None),
              (4, "square/true", False, 7, "boom"), (5, "square/true", False, 500, None),
              (5, "rays/true", True, 2001, None)]  # fmt: skip
    return write(tmp_path / "run", [first, second])


def test_every_forward_counts_and_so_does_the_clean_prediction(run):
    found = curve(run)
    assert sorted(found.queries[found.broken].tolist()) == [1 + 49, 1 + 500 + 99, 1 + 500 + 2001]
    assert (len(found.queries), found.wrong, found.errors) == (5, 1, 1)


def test_failures_count_at_every_budget(run):
    levels = {budget: curve(run).at(budget) for budget in BUDGETS}
    assert [at.success for at in levels.values()] == [0.2, 0.4, 0.4, 0.6, 0.6]
    assert (levels[1000].mean, levels[1000].median) == (325, 325)
    assert levels[5000].mean == pytest.approx((50 + 600 + 2502) / 3)
    assert levels[5000].median == 600


def test_a_budget_that_failures_did_not_have_is_not_known():
    found = QueryCurve(np.array([10, 500, 1001]), np.array([True, False, False]))
    assert [found.at(budget).known for budget in BUDGETS] == [True, False, False, False, False]
    assert found.end == 500
    done = QueryCurve(np.array([10, 500]), np.array([True, True]))
    assert all(done.at(budget).known for budget in BUDGETS)
    assert done.end == BUDGETS[-1]


def test_the_area_is_the_integral():
    found = QueryCurve(np.array([2, 40, 700, 900, 5001]), np.array([True, True, True, True, False]))
    grid = np.linspace(0, math.log(5001), 200_001)
    success = np.searchsorted(np.sort(found.queries[found.broken]), np.exp(grid), side="right") / 5
    assert found.area == pytest.approx(success.mean(), abs=1e-4)
    assert QueryCurve(np.array([10_001]), np.array([False])).area == 0


def test_no_sample_is_no_number():
    nothing = QueryCurve(np.zeros(0, np.int64), np.zeros(0, np.bool_))
    assert math.isnan(nothing.area)
    assert math.isnan(nothing.at(100).success)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"backwards": 1}, "takes gradients in rays/true"),
        ({"access": "transfer"}, "another kind"),
        ({"kind": "certificate"}, "another kind"),
        ({"status": "running"}, "not finished"),
        ({"threat": {"norm": "linf", "radius": None}}, "measures distances"),
        ({"coverage": "correct"}, "every stage"),
    ],
)
def test_what_has_no_curve_is_named(changes, why, tmp_path):
    part = [*clean(1), (1, "square/true", False, 5, None), (1, "rays/true", False, 5, None)]
    with pytest.raises(UserError, match=why):
        curve(write(tmp_path / "run", [part], **changes))


def test_the_table_and_its_file(run, tmp_path, capsys):
    file = tmp_path / "table.csv"
    assert queries.main([str(run.path), "--csv", str(file)]) == 0
    out = capsys.readouterr().out
    assert "5 samples; 1 more are misclassified without an attack; 1 of the failures are errors" in out
    assert "the clean prediction is the first" in out
    table = list(csv.DictReader(file.read_text().splitlines()))
    assert [row["budget"] for row in table] == [str(budget) for budget in BUDGETS]
    assert [float(row["success"]) for row in table] == [0.2, 0.4, 0.4, 0.6, 0.6]
    assert [float(row["failure"]) for row in table] == [0.8, 0.6, 0.6, 0.4, 0.4]


def test_mistakes_end_with_one_line_and_status_1(run, tmp_path, capsys):
    assert queries.main([str(tmp_path / "nowhere"), str(run.path)]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: there is no run.json below")
    assert said.err.count("\n") == 1
    assert "area under success" in said.out
    assert queries.main([str(run.path), "--csv", "/proc/nowhere/table.csv"]) == 1
    assert capsys.readouterr().err.startswith("error: cannot write")


def test_runs_of_another_kind_below_a_folder_are_counted_in_one_line(run, tmp_path, capsys):
    gradient = write(
        tmp_path / "pgd", [[*clean(1), (1, "square/true", False, 5, None)]], access="gradient", backwards=5
    )
    write(tmp_path / "smoothing", [], kind="certificate")
    assert queries.main([str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert said.err == "left out: 2 runs of another kind\n"
    assert "area under success" in said.out
    assert queries.main([str(gradient.path)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {gradient.path} takes gradients")
    shutil.rmtree(run.path)
    assert queries.main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        "left out: 2 runs of another kind; name runs of attacks that ask the model itself\n"
    )
