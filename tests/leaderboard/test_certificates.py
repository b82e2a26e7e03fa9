"""Certificates on the board, and what happens where an attack contradicts one."""

import json

import numpy as np
import pytest

from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.schema import rows
from gauntlet.leaderboard.__main__ import main
from gauntlet.leaderboard.build import build
from gauntlet.leaderboard.certificates import certified
from gauntlet.leaderboard.certified_bracket import BracketCurve
from gauntlet.leaderboard.run_metadata import DataKey
from gauntlet.metrics.bracket import Bracket
from gauntlet.metrics.certificate_summary import grid, summary
from gauntlet.metrics.confidence import wilson
from gauntlet.metrics.vote_shares import concentration
from tests.leaderboard.conftest import make_run

NAN = float("nan")


def certify(
    root, radii, *, kind="sound_prob", confidence=0.999, victim="sha256:none", norm="l2", status="done", right=None,
    margin=NAN, drawn=1100, trials=1000, counts=None,
):  # fmt: skip
    """Write a run that certifies: radii by sample; right: which predictions are; drawn: for each sample."""
    n = len(radii)
    right = [True] * n if right is None else right
    counts = [990] * n if counts is None else counts
    name = {"dataset": "digits", "threat": f"{norm}-1", "defense": "none", "certifier": "smoothing"}
    run = RunFolder(root.joinpath(*name.values(), f"{kind}{victim[-4:]}"))
    run.create(
        {
            "schema_version": 1, "status": status, "kind": "certificate", "name": name | {"model": "small_cnn"},
            "command": "python run.py certifier=smoothing", "config": {}, "config_hash": "x", "victim": victim,
            "threat": {"norm": norm, "eps": "1", "radius": 1.0, "low": 0.0, "high": 1.0}, "heads": "declared",
            "dataset": {"name": "digits", "digest": "sha256:data", "selection": "all", "samples": n},
            "certificate": {"kind": kind, "confidence": confidence}, "weights": {}, "card": {},
            "stages": ["certificate"], "chunk": n, "chunks": 1, "device": "cpu",
        }
    )  # fmt: skip
    columns = {
        "sample": range(n), "label": [1] * n, "predict": [1 if r else 2 for r in right], "radius": radii,
        "correct": right, "samples_used": [drawn] * n, "kind": [kind] * n, "confidence": [confidence] * n,
        "margin": [margin] * n, "forwards": [1100] * n, "trials": [trials] * n, "counts": [[count] for count in counts],
        "lower": [[0.97]] * n, "stop": ["budget"] * n, "error": [None] * n,
    }  # fmt: skip
    run.write_part(0, rows({name: list(column) for name, column in columns.items()}), {"certificate": 2.0})
    return run


def test_an_attack_within_a_certified_radius_is_told_loudly(tmp_path, capsys):
    runs, site = tmp_path / "runs", tmp_path / "site"
    certify(runs, [0.5] * 20)
    make_run(runs, norm="l2", eps="1/2", broken=range(5), distance=0.4)
    assert main(["--runs", str(runs), "--out", str(site)]) == 1
    told = capsys.readouterr().err
    assert "CONTRADICTION: 5 samples" in told
    assert "certified at 0.5, broken at 0.4" in told
    assert "Attacks contradict" in (site / "index.html").read_text()
    assert "Contradiction" in (site / "certificates.html").read_text()


@pytest.mark.parametrize(
    ("radii", "change"),
    [
        ([0.3] * 20, {}),  # outside the certified radius
        ([0.0] * 20, {}),  # nothing certified
        ([0.5] * 20, {"victim": "sha256:other"}),  # another model
        ([0.5] * 20, {"norm": "linf"}),  # another norm
        ([0.5] * 20, {"errors": {0: "x"}}),
    ],
)
def test_what_is_no_contradiction(tmp_path, radii, change):
    certify(tmp_path / "runs", radii)
    make_run(
        tmp_path / "runs",
        **{"norm": "l2", "eps": "1/2", "broken": () if "errors" in change else [3], "distance": 0.4} | change,
    )
    assert not any(verdict.contradictions for verdict in build(tmp_path / "runs", tmp_path / "site").certificates)


def test_a_few_may_fall_where_confidence_allows_it_and_none_where_there_is_a_proof(tmp_path):
    for kind, confidence, broken in (("sound_prob", 0.9, False), ("sound_det", 1.0, True)):
        runs = tmp_path / kind
        certify(runs, [0.5] * 20, kind=kind, confidence=confidence)
        make_run(runs, norm="l2", eps="1/2", broken=[3, 4], distance=0.5)
        (verdict,) = build(runs, tmp_path / f"site-{kind}").certificates
        assert verdict.samples == 2
        assert verdict.broken is broken


def test_a_proof_holds_for_what_rounding_puts_just_beyond_eps(tmp_path):
    """As the threat does; a radius from votes ends where it ends."""
    for kind, found in (("sound_det", 2), ("sound_prob", 0)):
        runs = tmp_path / kind
        certify(runs, [0.5] * 20, kind=kind, confidence=1.0)
        make_run(runs, norm="l2", eps="1/2", broken=[3, 4], distance=0.5 + 3e-8)
        (verdict,) = build(runs, tmp_path / f"site-{kind}").certificates
        assert verdict.samples == found


def test_a_certified_sample_that_is_wrong_as_it_is_contradicts_too(tmp_path):
    certify(tmp_path / "runs", [0.5] * 20, kind="sound_det", confidence=1.0)
    make_run(tmp_path / "runs", norm="l2", eps="1/2", wrong=[7])
    (verdict,) = build(tmp_path / "runs", tmp_path / "site").certificates
    assert [each.sample for each in verdict.contradictions] == [7]
    assert verdict.contradictions[0].stage == "clean"


def test_certified_but_wrong_predictions_and_estimates_claim_nothing(tmp_path):
    certify(tmp_path / "a", [0.5] * 20, kind="sound_det", confidence=1.0, right=[False] * 20)
    certify(tmp_path / "b", [0.5] * 20, kind="estimate", confidence=0.0)
    for root in (tmp_path / "a", tmp_path / "b"):
        make_run(root, norm="l2", eps="1/2", broken=[3], distance=0.1)
        (verdict,) = build(root, root / "site").certificates
        assert not verdict.contradictions
    assert "Not counted" in (tmp_path / "b" / "site" / "certificates.html").read_text()


def test_a_random_model_contradicts_only_where_chance_does_not_explain_it(tmp_path):
    for share, found in ((0.6, 0), (0.95, 1)):
        runs = tmp_path / str(share)
        certify(runs, [0.5] * 20, victim="sha256:bare", kind="sound_det", confidence=1.0)
        run = make_run(
            runs, norm="l2", eps="1/2", broken=[3], distance=0.4,
            change={"victim": "sha256:vote", "bare": "sha256:bare", "card": {"randomized": True},
                    "protocol": {"rule": "vote", "draws": 100}},
        )  # fmt: skip
        for chunk in sorted(run.present()):
            table = run.read_part(chunk)
            wrong = np.where(table["broken"].to_numpy(zero_copy_only=False), share, 0.1).astype(np.float32)
            table = table.append_column("wrong_share", [wrong]).append_column("fresh_share", [wrong])
            run.write_part(chunk, table, {"clean": 0.5})
        (verdict,) = build(runs, tmp_path / f"site{share}").certificates
        assert (verdict.attacks, verdict.samples) == (1, found)


def test_certified_accuracy_counts_abstentions_as_wrong_and_never_rises(tmp_path):
    run = certify(tmp_path, [0.0, 0.2, 0.2, 0.7], right=[False, True, False, True])
    total = summary(run)
    assert [total.certified(radius) for radius in (0.0, 0.1, 0.2, 0.3, 0.7, 0.8)] == [2, 2, 2, 1, 1, 0]
    assert total.average == pytest.approx((0.2 + 0.7) / 4)
    assert total.surely(0.1) == pytest.approx(1 / 4)
    low, high = total.interval(0.5)
    assert low < 0.25 < high
    assert grid(0.9528) == [0.0, 0.2, 0.4, 0.6, 0.8]
    assert grid(0.0) == [0.0]
    assert grid(3.0, "patch") == [0.0, 1.0, 2.0, 3.0]
    assert grid(20.5, "l0") == [0.0, 5.0, 10.0, 15.0, 20.0]
    assert grid(20.0, "poisoning") == [0.0, 5.0, 10.0, 15.0, 20.0]  # no half of a change


def test_the_page_has_the_curve_and_what_it_cost(tmp_path):
    certify(tmp_path / "runs", [0.1 * number for number in range(10)])
    built = build(tmp_path / "runs", tmp_path / "site")
    page = (tmp_path / "site" / "certificates.html").read_text()
    assert '<td>1,100<span class="under">1,000 a bound</span></td>' in page
    assert not built.certificates[0].contradictions
    claims, damaged = certified(tmp_path / "runs")
    assert (len(claims), damaged) == (1, [])


def test_proofs_for_one_ball_have_no_curve_and_votes_of_bands_have_one_without_draws(tmp_path):
    runs, site = tmp_path / "runs", tmp_path / "site"
    certify(runs, [1.0] * 3 + [0.0], kind="sound_det", confidence=1.0, margin=0.5, drawn=0, trials=0)
    certify(runs, [2.0, 1.0, 1.0, 0.0], kind="sound_det", confidence=1.0, norm="patch", drawn=0)
    bounds, bands = sorted((v.claims for v in build(runs, site).certificates), key=lambda c: c.norm)
    assert [(radius, count) for radius, count, _ in bounds.curve] == [(0.0, 4), (1.0, 3)]
    assert [(radius, count) for radius, count, _ in bands.curve] == [(0.0, 4), (1.0, 3), (2.0, 1)]
    page = (site / "certificates.html").read_text()
    assert "digits patches" in page
    assert page.count("<figure") == 1
    proofs, votes = (row for row in page.split("<tr")[1:] if ">a proof<" in row)
    assert ">1,100 forwards<" in votes  # per image; of bounds that number would mean nothing
    assert "forwards<" not in proofs


def test_rows_of_one_name_are_told_apart_by_their_folders(tmp_path):
    runs, site = tmp_path / "runs", tmp_path / "site"
    for victim in ("sha256:one", "sha256:two"):
        certify(runs, [0.5] * 4, victim=victim)
    certify(runs, [0.5] * 4, norm="l1")
    build(runs, site)
    page = (site / "certificates.html").read_text()
    assert all(f">none {mark}<" in page for mark in (":one", ":two"))
    assert '<th scope="row">none<span' in page  # the only one of its table


def test_the_distribution_of_votes_stands_beside_the_average_radius(tmp_path):
    """Wrong images have their own bin; the tenth of the images with the largest radii makes half of the average."""
    runs, site = tmp_path / "runs", tmp_path / "site"
    radii, counts = [3.0] + [0.5] * 6 + [0.0] * 3, [1000] + [550] * 3 + [850] * 3 + [990] * 3
    run = certify(runs, radii, counts=counts, right=[True] * 7 + [False] * 3)
    total = summary(run)
    expected = {"wrong": 3, "< 0.6": 3, "< 0.7": 0, "< 0.8": 0, "< 0.9": 3, "< 0.99": 0, "< 0.999": 0, "≥ 0.999": 1}
    assert dict(total.votes.histogram()) == expected
    assert [value for _, value in total.votes.quantiles()] == [0.55, 0.55, 0.85, 0.85, 1.0]
    assert concentration(total.radius) == pytest.approx(0.5)
    assert concentration(np.zeros(4)) == 0.0
    build(runs, site)
    page = (site / "certificates.html").read_text()
    assert '0.850<span class="under">0.550–0.850<' in page
    assert ", tenth: 50%<" in page
    assert page.count("<figure") == 2
    proof = certify(tmp_path / "proof", [1.0] * 4, kind="sound_det", confidence=1.0, drawn=0)
    assert summary(proof).votes is None


@pytest.mark.parametrize(
    ("kind", "margin", "said"),
    [
        ("sound_prob", NAN, "average radius 0.75 [0.5421, 0.9579], confidence"),
        ("sound_det", 0.5, "75.0 [53.1, 88.8] % certified at 1, a proof"),
    ],
)
def test_beside_distances_the_card_tells_the_average_radius_or_the_proven_ball(tmp_path, kind, margin, said):
    runs, site = tmp_path / "runs", tmp_path / "site"
    certify(runs, [1.0] * 15 + [0.0] * 5, kind=kind, margin=margin)
    make_run(runs, norm="l2", eps="unbounded", broken=[3], distance=2.0)
    build(runs, site)
    (record,) = json.loads((site / "board.json").read_text())["entries"]
    (line,) = record["card"]["certificate"]
    assert line.startswith(f"smoothing: {said}")


def test_both_sides_over_eps_are_steps_that_hold_what_is_known_between():
    """Broken at the lower of two eps is broken at all above, proven at the higher one proven at all below."""
    points = ((0.1, Bracket(10, 6, 2, "crown")), (0.2, Bracket(10, 3, 5, "crown")))
    curve = BracketCurve("none", DataKey("digits", "sha256:data", "all"), "linf", points)
    sides = {name: [point[:2] for point in side] for name, side in curve.sides().items()}
    assert sides == {
        "not broken": [(0.1, 80.0), (0.2, 80.0), (0.2, 50.0)],
        "proven": [(0.1, 60.0), (0.1, 30.0), (0.2, 30.0)],
    }
    assert curve.sides()["proven"][0][2:] == pytest.approx([100 * end for end in wilson(6, 10)])


def test_models_that_were_bracketed_at_several_eps_get_a_curve(tmp_path):
    runs, site = tmp_path / "runs", tmp_path / "site"
    certify(runs, [1.0] * 12 + [0.0] * 8, kind="sound_det", confidence=1.0, margin=0.5, drawn=0)
    for eps in ("1/2", "1"):
        make_run(runs, norm="l2", eps=eps, broken=[19], distance=0.4)
    build(runs, site)
    assert "none, digits, l2: from both sides" in (site / "certificates.html").read_text()
