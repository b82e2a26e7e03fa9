"""Runs without a bound: what they say about other entries, their own entry, and the curve on a page."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gauntlet.evidence.run_folder import RunFolder
from gauntlet.leaderboard.build import build
from gauntlet.leaderboard.entry import Entry
from gauntlet.leaderboard.export import as_csv, as_json
from gauntlet.leaderboard.robustness_curve_plot import curve_chart
from gauntlet.leaderboard.score import boards

Make = Callable[..., RunFolder]
Entries = Callable[[], list[Entry]]

FAR = {sample: 0.01 * (sample + 1) for sample in range(20)}


def test_finds_within_eps_lower_the_finite_entry_and_the_others_do_not(make: Make, entries: Entries) -> None:
    make(attack="pgd", eps="0.1", wrong=[19], broken=[0])
    make(attack="fmn", eps="unbounded", wrong=[19], broken=range(19), distance=FAR)
    finite, unbounded = entries()
    assert (finite.n, finite.clean, finite.robust) == (20, 19, 9)  # distances up to 0.1 break ten samples, 19 is wrong
    assert [(each.reason, each.lowered) for each in finite.elsewhere] == [("measured without a bound", 9)]
    assert not finite.reasons
    assert unbounded.reasons == ("it has no eps to rank at: its runs measure how far the attacker must go",)
    assert unbounded.robust == 0


def test_an_unbounded_run_never_ranks(make: Make, entries: Entries) -> None:
    make(attack="pgd", defense="a", eps="0.1")
    for defense in ("a", "b"):
        make(attack="fmn", defense=defense, eps="unbounded", broken=range(20), distance=FAR)
    finite, unbounded = boards(entries())
    assert [entry.rank for entry in finite.entries] == [(1, 1)]
    assert [entry.rank for entry in unbounded.entries] == [None, None]
    content = json.loads(as_json([finite, unbounded], []))
    assert [entry["radius"] for entry in content["entries"]] == [0.1, None, None]
    assert ",inf" not in as_csv([finite, unbounded])


def test_the_curve_is_the_share_beyond_each_distance(make: Make, entries: Entries) -> None:
    make(attack="pgd", eps="0.1", wrong=[19], broken=[10], distance=0.005)
    make(attack="fmn", eps="unbounded", wrong=[19], broken=range(18), distance=FAR)
    (finite, _) = entries()
    worst, fmn = finite.curves
    assert (worst.name, worst.best, fmn.name, fmn.best) == ("all runs", True, "fmn", False)
    assert fmn.eps[:3] == (0.0, 0.01, 0.02)
    assert fmn.accuracy[:3] == pytest.approx((0.95, 0.90, 0.85))
    assert fmn.accuracy[-1] == pytest.approx(0.05)  # one sample was never broken
    assert worst.eps[:3] == (0.0, 0.005, 0.01)
    assert worst.accuracy[:3] == pytest.approx((0.95, 0.90, 0.85))
    chart = curve_chart(finite.curves, finite.threat.radius)
    assert [(line.role, line.stepped, line.points[0]) for line in chart.lines] == [
        ("worst", True, (0.0, 95.0)),
        ("curve", True, (0.0, 95.0)),
    ]
    assert chart.at == 0.1


def test_curves_belong_to_their_selection(make: Make, entries: Entries) -> None:
    make(attack="pgd", eps="0.1")
    make(attack="fmn", eps="unbounded", selection="few", ids=range(5), broken=range(5), distance=FAR)
    finite = next(entry for entry in entries() if not entry.threat.unbounded)
    assert finite.curves == ()
    assert finite.robust == 15


def test_long_curves_are_thinned(make: Make, entries: Entries) -> None:
    far = {sample: 0.001 * (sample + 1) for sample in range(1000)}
    make(attack="fmn", eps="unbounded", ids=range(1000), broken=range(1000), distance=far, chunk=500)
    (entry,) = entries()
    assert len(entry.curves[1].eps) == 200
    assert (entry.curves[1].accuracy[0], entry.curves[1].accuracy[-1]) == (1.0, 0.0)


def test_the_pages_show_the_curve(make: Make, runs: Path, tmp_path: Path) -> None:
    make(attack="pgd", eps="0.1", broken=[0])
    make(attack="fmn", eps="unbounded", broken=range(20), distance=FAR)
    built = build(runs, tmp_path / "site")
    assert not built.damaged
    pages = sorted((tmp_path / "site" / "entries").glob("*.html"))
    assert len(pages) == 2
    for page in pages:
        text = page.read_text()
        assert '<svg class="chart" id="curve"' in text
        assert "plots.js" in text
    assert (tmp_path / "site" / "static" / "plots.js").is_file()


def test_the_headline_of_an_unbounded_entry_is_the_median_distance(make: Make, runs: Path, tmp_path: Path) -> None:
    make(attack="pgd", eps="0.1", broken=[18], distance=0.035)
    far = {sample: 0.01 * (sample + 1) for sample in range(20)}
    make(attack="fmn", eps="unbounded", wrong=[19], broken=range(17), distance=far)
    build(runs, tmp_path / "site")
    content = json.loads((tmp_path / "site" / "board.json").read_text())
    finite, unbounded = content["entries"]
    assert finite["distance_median"] is None
    quartiles = (unbounded["distance_25"], unbounded["distance_median"], unbounded["distance_75"])
    assert quartiles == pytest.approx((0.05, 0.09, 0.14))  # 0.01 to 0.17, 0.035 by the other run, one that stands
    index, page = ((tmp_path / "site" / name).read_text() for name in ("index.html", unbounded["page"]))
    assert 'Median distance of the nearest adversarial example</dt><dd>0.09 <span class="range">0.05–0.14<' in page
    assert 'Not broken</dt><dd>1 <span class="range">of 19<' in page
    assert "Worst-case robust accuracy" not in page
    assert "upper bound on the distance" in page
    assert 'data-label="Median distance" data-order="0.090000"' in index
    assert "median distance 0.09</li>" in (tmp_path / "site" / finite["page"]).read_text()


def test_where_most_samples_stand_the_median_is_not_found(make: Make, runs: Path, tmp_path: Path) -> None:
    make(attack="fmn", eps="unbounded", broken=range(6), distance=FAR)
    make(attack="fmn", defense="wrong", eps="unbounded", wrong=range(20))
    build(runs, tmp_path / "site")
    pages = [page.read_text() for page in sorted((tmp_path / "site" / "entries").glob("*.html"))]
    assert '<dd>not found <span class="range">0.06–not found<' in pages[0]
    assert "<dt>Not broken</dt><dd>–</dd>" in pages[1]
