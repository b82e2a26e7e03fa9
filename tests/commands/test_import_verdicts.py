"""Questions leave a run as ONNX and VNN-LIB; answers come back as claims, and counterexamples are judged here."""

import csv

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from gauntlet.certification.claimed import CLAIMS
from gauntlet.certification.exchange.vnnlib import Property
from gauntlet.commands.export_examples import main as export
from gauntlet.commands.import_results import main as import_main
from gauntlet.config.shipped import CONF
from gauntlet.data.digits import Digits
from gauntlet.evidence.run_folder import RunFolder, find_runs
from gauntlet.jobs.attack_job import evaluate
from gauntlet.jobs.bracket_job import attack_and_certify
from gauntlet.jobs.certification_job import certify
from gauntlet.leaderboard.build import build
from gauntlet.leaderboard.certificates import certified
from gauntlet.verification.pack import main as pack
from gauntlet.verification.verify import main as verify_main
from gauntlet.verification.verify import verify
from tests.certification.onnx_reader import evaluate as run_onnx

COUNT = 12


WORDS = [
    "attack=pgd", "threat.eps=0.3", "defense=trades", f"dataset.limit={COUNT}", "runtime.progress=false",
    "runtime.device=cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    words = [*WORDS, f"runs_dir={tmp_path_factory.mktemp('runs')}"]
    with initialize_config_dir(CONF, version_base=None):
        cfg = compose("run", words)
    return evaluate(cfg, {"attack": "pgd", "defense": "trades", "model": "small_cnn"}, "python run.py attack=pgd").run


@pytest.fixture(scope="module")
def questions(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("questions")
    assert export([str(run.path), "--vnnlib", str(folder), "--timeout", "60"]) == 0
    with (folder / "instances.csv").open() as file:
        rows = list(csv.reader(file))
    return folder, rows, {int(row[1].rpartition("_")[2].split(".")[0]): row[1] for row in rows}


def examples(run):
    """Sample -> adversarial example that is stored."""
    found = {}
    for chunk in sorted(run.present()):
        arrays = run.read_examples(chunk)
        found |= dict(zip(arrays["sample"].tolist(), arrays["z"], strict=True))
    return found


def counterexample(z):
    return "sat\n(" + "\n".join(f"(X_{at} {float(v)!r})" for at, v in enumerate(z.ravel())) + ")\n"


def test_each_question_is_about_what_is_deployed(run, questions):
    folder, rows, names = questions
    assert all(row[0] == "onnx/network.onnx" and row[2] == "60" for row in rows)
    network, clean = (folder / "onnx/network.onnx").read_bytes(), Digits().split("test").read(slice(0, COUNT))
    broken = examples(run)
    assert set(names) == set(range(COUNT))
    assert 1 <= len(broken) < COUNT
    rng = np.random.default_rng(0)
    for sample, name in names.items():
        asked, x = Property.read((folder / name).read_text()), clean.x[sample].numpy()
        assert asked.label == int(clean.y[sample])
        points = [x.ravel(), *rng.uniform(asked.lower, asked.upper, (20, x.size))]
        corners = x + 0.3 * rng.choice([-1, 1], (20, *x.shape))  # of the ball: all of them are inside
        points += [corner.clip(0, 1).ravel() for corner in corners]
        if sample in broken:
            points.append(broken[sample].ravel())
        z = torch.from_numpy(np.stack(points).astype(np.float32)).reshape(-1, 1, *x.shape)
        scores = torch.cat([run_onnx(network, image) for image in z]).numpy()
        said = asked.violated(z.flatten(1).double().numpy().clip(asked.lower, asked.upper), scores)
        assert np.abs(z[1:, 0].numpy() - x).max() <= 0.3 * (1 + 1e-6) + 2e-7
        assert not said[0]
        assert said[-1] == (sample in broken)
    least = np.array([Property.read((folder / name).read_text()).lower for name in names.values()])
    assert least.min() == 0


def test_only_survivors_on_demand_and_only_boxes(run, tmp_path, capsys):
    assert export([str(run.path), "--vnnlib", str(tmp_path), "--survivors"]) == 0
    left = COUNT - len(examples(run))
    assert f"{left} of {COUNT} images" in capsys.readouterr().out
    assert len(list((tmp_path / "vnnlib").iterdir())) == left


def test_answers_become_claims_and_judged_counterexamples(run, questions, tmp_path, capsys):
    names = questions[2]
    broken = examples(run)
    hit, missed = sorted(broken)[0], next(sample for sample in names if sample not in broken)
    clean = Digits().split("test").read(slice(0, COUNT)).x
    proven = [sample for sample in names if sample not in (hit, missed)]
    lines = [f"{names[sample]},unsat,3.5" for sample in proven]
    for sample, z in ((hit, broken[hit]), (missed, clean[missed].numpy())):
        name = names[sample].rpartition("/")[2].replace(".vnnlib", ".counterexample")
        (tmp_path / name).write_text(counterexample(z))
        lines.append(f"{names[sample]},sat,1.0")
    (tmp_path / "results.csv").write_text("\n".join(lines))
    assert import_main([str(tmp_path / "results.csv"), "--for", str(run.path), "--origin", "nameless"]) == 0
    told = capsys.readouterr().out
    assert "claimed by nameless, not checked by us" in told
    assert f"answers: {len(proven)} proven, 2 violated, 0 open" in told
    runs = {each.path.parent.name: each for each in find_runs(run.path.parents[4])}
    rows = [row for table in runs["imported-nameless"].read_parts() for row in table.to_pylist()]
    assert [row["sample"] for row in rows if row["broken"]] == [hit]  # the other one fools nobody
    claims = runs["claimed-nameless"]
    (table,) = claims.read_parts()
    assert [row["sample"] for row in table.to_pylist() if row["radius"] > 0] == proven
    assert set(table["kind"].to_pylist()) == {"claimed"}
    assert claims.manifest()["certificate"]["origin"] == "nameless"
    assert claims.manifest()["result"].startswith("claimed ")
    report = verify(claims)
    assert not report.verified
    assert "claimed by nameless" in report.lack

    packed = tmp_path / "claims.zip"
    assert pack([str(claims.path), "--out", str(packed)]) == 0
    here, away = run.path.parents[4] / CLAIMS, tmp_path / "away"
    here.rename(away)  # as elsewhere: the pack has the claims
    status = verify_main([str(packed)])
    said = "".join(capsys.readouterr())
    away.rename(here)
    assert status == verify_main([str(claims.path)])
    assert "claimed by nameless" in said
    assert "there is no file" not in said

    site = tmp_path / "site"
    built = build(run.path.parents[4], site)
    (judged,) = built.certificates
    assert not judged.claims.counts
    fallen = len(set(broken) - {hit})  # claimed to be proven, and broken by our attack
    assert judged.samples == fallen
    assert judged.broken == (fallen > 0)
    page = (site / "certificates.html").read_text()
    assert "claimed by nameless, not checked by us" in page
    assert "<table" not in page
    assert "proven" not in (site / "index.html").read_text().split("<main")[1]

    both = [*WORDS, "certifier=claimed", f"certifier.path={claims.manifest()['config']['certifier']['path']}"]
    with initialize_config_dir(CONF, version_base=None):
        cfg = compose("run", [*both, f"runs_dir={run.path.parents[4]}"])
    done = attack_and_certify(cfg, {"attack": "pgd", "defense": "trades", "certifier": "claimed"}, both)
    assert done.certified is not None
    assert done.certified.summary.correct > 0
    assert done.bracket is None  # what others claim makes no bracket

    words = [f"certifier.path={claims.manifest()['config']['certifier']['path']}", "dataset.limit=5"]
    with initialize_config_dir(CONF, version_base=None):
        other = compose("run", ["certifier=claimed", *words, "threat.eps=0.2", f"runs_dir={tmp_path}"])
    with pytest.raises(Exception, match="another model, data set or threat"):
        certify(other, {"certifier": "claimed", "defense": "none"}, "")
    assert certified(run.path.parents[4])[1] == []


def test_answers_for_another_run_are_refused(run, tmp_path, capsys):
    (tmp_path / "results.csv").write_text("0123456789ab_0.vnnlib,unsat\n")
    assert import_main([str(tmp_path / "results.csv"), "--for", str(run.path)]) == 1
    assert "line 1: 0123456789ab_0.vnnlib asks about another model" in capsys.readouterr().err
    assert isinstance(run, RunFolder)
