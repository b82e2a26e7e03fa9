"""Distances, curves and optimality."""

import csv
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gauntlet.commands.curves import main
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.metrics.perturbation_size import Spread, accuracy, area, nearest, optimality, read, spread_lines
from gauntlet.metrics.robustness_curve import grid
from tests.leaderboard.conftest import make_run

Make = Callable[..., RunFolder]
FAR = {sample: 0.01 * (sample + 1) for sample in range(20)}
distances = st.lists(st.sampled_from([0.1, 0.25, 0.5, 2.0, math.inf]), min_size=4, max_size=4)


@given(distances, distances, st.integers(0, 3))
def test_the_pointwise_best_is_optimal_and_ties_change_nothing(one, other, wrong):
    one, other = (np.array(values) for values in (one, other))
    one[:wrong] = other[:wrong] = 0.0
    best = nearest([one, other])
    assert optimality(best, best) == 1.0
    assert optimality(best, nearest([one, other, best, best])) == 1.0
    assert nearest([one, one, other]).tolist() == best.tolist()
    assert all(0 <= optimality(each, best) <= 1 + 1e-12 for each in (one, other))
    assert optimality(one, nearest([one, one])) == 1.0


def test_optimality_by_hand():
    one, other = np.array([0.0, 1.0, 3.0, math.inf]), np.array([0.0, 2.0, 2.0, math.inf])
    best = nearest([one, other])  # 0, 1, 2, inf: the axis ends at 2
    assert optimality(one, best) == pytest.approx((1.5 - 1.25) / (1.5 - 1.25))
    assert optimality(other, best) == pytest.approx((1.5 - 1.5) / (1.5 - 1.25))
    assert optimality(one, best, 4.0) == pytest.approx((3.0 - 2.0) / (3.0 - 1.75))
    assert optimality(np.full(4, math.inf) * np.array([0, 1, 1, 1]).clip(1), best) <= 0


@given(distances, st.floats(0.01, 3.0))
def test_the_area_is_the_integral_of_the_accuracy(values, limit):
    values = np.array(values)
    edges = sorted({0.0, limit, *(v for v in values if v < limit)})
    steps = [(b - a) * accuracy(values, [(a + b) / 2])[0] for a, b in itertools.pairwise(edges) if b - a > 1e-6]
    assert area(values, limit) == pytest.approx(sum(steps), abs=1e-5)


def test_the_distance_of_a_sample_is_that_of_its_nearest_find(tmp_path):
    run = make_run(tmp_path, attack="fmn", eps="unbounded", wrong=[3], broken=range(19), distance=FAR)
    answer = read(run)
    assert answer.distance[:5].tolist() == pytest.approx([0.01, 0.02, 0.03, 0.0, 0.05])
    assert answer.distance[19] == math.inf
    assert (answer.forwards, answer.backwards) == (10, 4)


def test_the_grid_has_multiples_and_quantiles():
    best = np.array([0.0, 0.1, 0.2, 0.3, math.inf])
    assert grid(best, 0.4)[:3] == [0.0, 0.1, pytest.approx(0.12)]
    assert grid(best, None)[0] == 0.0
    assert len(grid(np.full(3, math.inf), 0.4)) == 8


def test_the_table(tmp_path: Path, capsys):
    make_run(tmp_path, attack="fmn", eps="unbounded", broken=range(20), distance=FAR)
    make_run(tmp_path, attack="fab", eps="unbounded", broken=range(20), distance={s: 2 * d for s, d in FAR.items()})
    make_run(tmp_path, attack="pgd", eps="0.1", broken=[15], distance=0.05)
    make_run(tmp_path, attack="fmn", defense="trades", eps="unbounded", broken=[0], distance=FAR)
    data = tmp_path / "curves.csv"
    assert main([str(tmp_path), "--csv", str(data)]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert [line.split()[0] for line in lines if "reference eps" in line or "n = " in line] == ["none", "trades"]
    table = {line.split("  ")[0]: line.split() for line in lines}
    assert table["all runs"][2] == "100.00%" or "all runs" in out
    fmn, fab = (next(line for line in lines if line.startswith(name) and "%" not in line) for name in ("fmn", "fab"))
    assert float(fmn.split()[1]) == 0.11
    assert 0 < float(fab.split()[2]) < float(fmn.split()[2]) < 1  # the find of pgd is nearer on one sample
    starred = [line.removeprefix("pgd *").split() for line in lines if line.startswith("pgd *")]
    points = next(line.split()[4:] for line in lines if line.startswith("robust accuracy at eps"))
    assert all((share == "–") == (float(point) > 0.1) for point, share in zip(points, starred[0], strict=True))
    assert starred[1][:2] == ["–", "–"]  # neither a median distance nor an optimality
    rows = list(csv.DictReader(data.read_text().splitlines()))
    assert {row["attack"] for row in rows} == {"fmn", "fab", "pgd", "all runs"}
    steps = [float(row["robust_accuracy"]) for row in rows if row["attack"] == "fmn" and row["defense"] == "none"]
    assert steps == sorted(steps, reverse=True)
    assert (steps[0], steps[-1]) == (1.0, 0.0)


def test_mistakes_get_one_line(tmp_path: Path, capsys):
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"error: there is no run in {tmp_path}; make one: python run.py attack=fmn threat.eps=unbounded\n"
    )
    make_run(tmp_path, change={"status": "running"})
    assert main([str(tmp_path)]) == 1
    assert "run its command again to go on" in capsys.readouterr().err


def test_the_headline_is_the_quartiles_of_the_samples_that_are_right(tmp_path):
    run = make_run(tmp_path, attack="fmn", eps="unbounded", wrong=[19], broken=range(12), distance=FAR)
    distance, survivors = spread_lines(run, "linf")
    assert "median 0.1   25 % 0.06   75 % not found   (linf," in distance
    assert survivors.split("   ")[-1] == "(7 of 19)"
    assert Spread.of(np.zeros(3)) is None
    (nothing,) = spread_lines(make_run(tmp_path / "wrong", eps="unbounded", wrong=range(20)), "linf")
    assert nothing.endswith("no sample is right without an attack")


def test_runs_of_another_kind_below_a_folder_are_counted_in_one_line(tmp_path, capsys):
    certificate = make_run(tmp_path, attack="smoothing", change={"kind": "certificate"})
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == "left out: 1 run of another kind; name runs of attacks\n"
    make_run(tmp_path, attack="fmn", eps="unbounded", broken=range(20), distance=FAR)
    assert main([str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert said.err == "left out: 1 run of another kind\n"
    assert "fmn" in said.out
    assert main([str(certificate.path)]) == 1
    assert "only attacks have distances" in capsys.readouterr().err
