"""Accuracies that a publication reports, and rank correlations of measures."""

import json
import math

import numpy as np
import pytest

from gauntlet.commands.correlation import main as correlation
from gauntlet.commands.import_results import main as bring
from gauntlet.evidence.reported_table import ReportedTable
from gauntlet.leaderboard.__main__ import main as board
from gauntlet.metrics.rank_correlation import correlated

SHARES = {"0": (0.9, 0.3), "1": (0.8, 0.4), "3": (0.7, 0.5), "4": (0.6, 0.6)}
META = {
    "ids": {str(i): {"isomorph": str(i if i != 2 else 1), "nb201-string": f"|<b>~{i}|"} for i in range(5)}
}  # fmt: skip
RESULTS = {
    "cifar10": {
        key: {"val_acc": {"1": clean}, "val_pgd_8.0_acc": {"1": left - 0.1, "2": left + 0.1}, "val_loss": {"1": 7.0}}
        for key, (clean, left) in [*SHARES.items(), ("2", (0.1, 0.1))]
    }
}


def files(folder, results=RESULTS, meta=META):
    for name, content in (("all.json", results), ("meta.json", meta)):
        (folder / name).write_text(json.dumps(content))
    return [
        str(folder / "all.json"), "--from", "nasrobbench201", "--meta", str(folder / "meta.json"),
        "--runs", str(folder / "runs"),
    ]  # fmt: skip


def test_architectures_stand_for_themselves_with_the_mean_over_their_runs(tmp_path):
    assert bring(files(tmp_path)) == 0
    table = ReportedTable.read(tmp_path / "runs" / "_reported" / "nasrobbench201.json")
    assert table.source == "NAS-RobBench-201"
    assert set(table.tables["cifar10"]) == set(SHARES)
    for key, shares in SHARES.items():
        assert tuple(table.tables["cifar10"][key].values()) == pytest.approx(shares)
    assert set(table.tables["cifar10"]["0"]) == {"clean", "pgd 8/255"}
    assert table.about["3"] == "|<b>~3|"


def test_clean_accuracy_that_orders_them_the_other_way_correlates_at_minus_one(tmp_path, capsys):
    bring(files(tmp_path))
    assert correlation([str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().out.splitlines()
    row = next(line for line in said if line.startswith("clean")).split()
    assert (row[1], row[3], row[7]) == ("4", "-1.000", "-1.000")
    assert any("cifar10 · NAS-RobBench-201 · reported, without evidence" in line for line in said)


def test_a_table_without_the_target_is_left_out_and_one_of_no_table_is_an_error(tmp_path, capsys):
    clean = {key: {"val_acc": metrics["val_acc"]} for key, metrics in RESULTS["cifar10"].items()}
    bring(files(tmp_path, RESULTS | {"cifar100": clean}))
    assert correlation([str(tmp_path / "runs"), "--target", "pgd 8/255"]) == 0
    said = capsys.readouterr()
    assert "cifar10 · NAS" in said.out
    assert "cifar100 · NAS" not in said.out
    assert "left out: cifar100 · " in said.err
    assert correlation([str(tmp_path / "runs"), "--target", "pdg 8/255"]) == 1
    assert "error: --target pdg 8/255 is no measure of any table" in capsys.readouterr().err


def test_the_board_shows_them_apart_and_ranks_none(tmp_path):
    bring(files(tmp_path))
    assert board(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "site")]) == 0
    page = (tmp_path / "site" / "reported.html").read_text()
    assert "|&lt;b&gt;~0|" in page
    assert "<b>" not in page
    assert 'href="reported.html"' in (tmp_path / "site" / "index.html").read_text()
    assert json.loads((tmp_path / "site" / "board.json").read_text())["entries"] == []


@pytest.mark.parametrize(
    ("results", "meta", "said"),
    [
        ({"cifar10": {"9": {"val_acc": {"1": 0.5}}}}, META, "architecture 9, which the meta file does not list"),
        ({"cifar10": {"0": {"val_acc": {"1": math.nan}}}}, META, "is damaged: NaN is no number of JSON"),
        ({"cifar10": {"0": {"val_acc": {"1": -0.1}}}}, META, "is no accuracy in [0, 1]"),
        ([], META, "holds no mapping"),
        ({"cifar10": {"0": {"val_acc": {"1": 55.0}}}}, META, "is no accuracy in [0, 1]"),
        ({"cifar10": {"0": {"loss": {"1": 0.5}}}}, META, "has no accuracy such as"),
        (RESULTS, {"other": 1}, "has no ids"),
    ],
)
def test_another_layout_is_refused_in_one_line(tmp_path, capsys, results, meta, said):
    assert bring(files(tmp_path, results, meta)) == 1
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_normal_measures_have_the_correlations_of_theory():
    draws = np.random.default_rng(0).normal(size=(2, 2000))
    found = correlated(draws[0], draws[0] + draws[1])  # Pearson's r is 1 / sqrt(2)
    assert found.kendall_interval[0] < 2 / math.pi * math.asin(0.5**0.5) < found.kendall_interval[1]
    assert found.spearman_interval[0] < 6 / math.pi * math.asin(0.5**0.5 / 2) < found.spearman_interval[1]
    assert not correlated([1.0] * 9, draws[0][:9]).defined
