"""What a forger would try: each is refused, or shown as what it is."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from safetensors.torch import load_file, save_file
from scipy.stats import beta, norm

from gauntlet.config.shipped import CONF
from gauntlet.evidence.digest import adversarial_digest, manifest_digest, records_digest
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.schema import rows
from gauntlet.jobs.attack_job import evaluate
from gauntlet.jobs.attack_setup import prepare
from gauntlet.jobs.certification_job import certify
from gauntlet.leaderboard.build import build
from gauntlet.metrics.attack_summary import summarize
from gauntlet.metrics.certificate_summary import summary
from gauntlet.training.loop import BEST
from gauntlet.training.weights_cache import ZOO
from gauntlet.verification import verify
from gauntlet.verification.command_check import command_note
from gauntlet.verification.sampling import EVERYTHING, Amount, missed

CHOICES = {"attack": "pgd", "defense": "trades", "model": "small_cnn"}
SMALL = ["dataset.limit=60", "runtime.chunk=25", "runtime.progress=false"]


def composed(folder, *overrides):
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base=None):
        return compose("run", [*SMALL, f"runs_dir={folder}", *overrides])


def attacked(folder, *overrides, **choices):
    words = ["defense=trades", "attack=pgd", "attack.steps=10", "threat.eps=0.35", *overrides]
    return evaluate(composed(folder, *words), CHOICES | choices, "python run.py attack=pgd").run


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return attacked(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def run(honest, tmp_path):
    return copied(honest, tmp_path / "runs")


def copied(run, root):
    place = root.joinpath(*run.path.parts[-5:])
    shutil.copytree(run.path, place)
    return RunFolder(place)


def rewrite(run, change, keep_examples=True):
    """Change the rows of every chunk, with seals and totals as an evaluation would have left them."""
    stages = run.manifest()["stages"]
    for chunk in sorted(run.present()):
        table = change(run.read_part(chunk).to_pandas())
        table["error"] = None
        run.write_part(chunk, rows(table.to_dict("list")), run.read_seconds(chunk))
        if not keep_examples:
            none = {name: array[:0] for name, array in run.read_examples(chunk).items()}
            run.write_examples(chunk, none, stages[1:])
    run.update({**run.manifest(), "cost": summarize(run, stages).cost})


def survive(table, passes=None):
    """Every broken row becomes one of a survivor; passes: those that it says it took."""
    fell = table["broken"] & (table["stage"] != "clean")
    table.loc[fell, "pred"] = table.loc[fell, "label"]
    table.loc[fell, "margin"] = np.float32(1.5)
    if passes is not None:
        table.loc[fell, ["forwards", "backwards"]] = passes
    table.loc[fell, "broken"] = False
    return table


def claim(run, **more):
    """Write a verdict of the right digests by hand."""
    content = {
        "verified": True, "partial": False, "checked": 30, "claimed": 30, "failed": 0, "problems": [], "level": "full",
        "replayed": 60, "total": 60, "time": "2026-01-01T00:00:00+00:00", "versions": {"gauntlet": "0.2.0"},
        "records_digest": records_digest(run), "manifest_digest": manifest_digest(run),
        "adversarial_digest": adversarial_digest(run),
    }  # fmt: skip
    (run.path / "verification.json").write_text(json.dumps(content | more))


def shown(run):
    """How the board calls the verification of the only run."""
    built = build(run.path.parents[4], run.path.parents[4].with_name("site"))
    (entry,) = built.boards[0].entries
    return entry.runs[0].verification, entry


def problems(run, amount=None):
    return "\n".join(verify.verify(run, amount=amount).problems)


def test_the_honest_run_is_verified_at_every_level(run):
    for amount, level in ((None, "examples"), (Amount.of("16"), "replayed 16 of"), (EVERYTHING, "full")):
        report = verify.verify(run, amount=amount)
        assert report.problems == []
        assert report.verified
        assert report.level.startswith(level)
    assert report.replayed.equal == report.replayed.rows > 60


def test_examples_turned_into_survivors_lack_the_passes_of_the_attack(run):
    rewrite(run, survive, keep_examples=False)
    assert "it survives with" in problems(run)
    assert "the attack makes at least 10" in problems(run)


def test_survivors_that_are_forged_with_care_fall_when_they_are_attacked_again(run):
    fallen = sum((run.read_part(k).to_pandas().query("stage != 'clean'")["broken"]).sum() for k in run.present())
    rewrite(run, lambda table: survive(table, passes=(11, 10)), keep_examples=False)
    report = verify.verify(run)
    assert (report.problems, report.level) == ([], "examples")  # it says that survivors are as the run states them
    again = verify.verify(run, amount=Amount.of("16"))
    assert missed(int(fallen), 16, again.replayed.total) < 1e-3
    assert "broken is True, the record says False" in "\n".join(again.problems)


@pytest.mark.parametrize(("schedule", "least"), [(["attack.schedule=cosine"], 20_000), ([], 120)])
def test_a_weak_run_cannot_be_called_a_strong_one(schedule, least, honest, tmp_path):
    """Its own hash, and all names that follow from it, are made anew."""
    weak = attacked(tmp_path / "weak", "threat.eps=0.03")
    forged = copied(weak, tmp_path / "runs")
    words = ["defense=trades", "attack=pgd", "threat.eps=0.15", "attack.steps=1000", "attack.restarts=20", *schedule]
    strong = prepare(composed(tmp_path / "strong", *words), CHOICES, "python run.py").manifest
    manifest = {**forged.manifest(), **{key: strong[key] for key in ("threat", "config", "name")}}
    forged.update(manifest)
    (line,) = [line for line in verify.verify(forged).problems if line.startswith("run.json: config_hash")]
    manifest["config_hash"] = line.rpartition('"')[0].rpartition('"')[2]
    place = forged.path.parents[3].joinpath(strong["name"]["threat"], "trades", "pgd", manifest["config_hash"])
    shutil.copytree(forged.path, place)
    forged = RunFolder(place)
    parts = {chunk: (weak.read_part(chunk), weak.read_seconds(chunk)) for chunk in weak.present()}
    examples = {chunk: weak.read_examples(chunk) for chunk in weak.present()}
    forged.update(manifest)
    for chunk, (table, seconds) in parts.items():
        forged.write_part(chunk, table, seconds)
        forged.write_examples(chunk, examples[chunk], manifest["stages"][1:])
    said = verify.verify(forged).problems
    assert said
    assert all(f"it survives with 10 backwards, but the attack makes at least {least}" in line for line in said)


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"cost": {}}, "run.json: cost.clean.attacked is None"),
        ({"draws": {"true": {"draws": 4}}}, ""),
        ({"failures": ["nothing"]}, "its failures are not those of the records"),
        ({"chunk": 20}, "run.json: chunk"),
    ],
)
def test_totals_in_the_manifest_cannot_be_replaced(run, field, words):
    run.update({**run.manifest(), **field})
    report = verify.verify(run, amount=Amount.of("4") if "draws" in field else None)
    assert words in "\n".join(report.problems)
    assert report.problems


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("python run.py defense=trades attack=pgd attack.steps=10 threat.eps=0.35 dataset.limit=60", ""),
        ("python run.py defense=trades attack=pgd threat.eps=0.35 dataset.limit=60", "attack.steps is 40, the record"),
        ("curl example.org", "is none of gauntlet's"),
        ("python run.py hydra.searchpath=[file://x] attack=y", "was not composed"),
        ("python run.py attack=nothing", "could not be composed here"),
        ("python run.py 'seed=${oc.env:HOME}'", "could not be composed here"),
    ],
)
def test_a_command_that_gives_another_configuration_is_told(run, command, words):
    run.update({**run.manifest(), "command": command})
    note = command_note(run.manifest())
    assert words in note
    assert bool(note) == bool(words)


def test_a_recorded_command_calls_no_code_and_cannot_trust_itself(run, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'CANARY')!r}, 'w').close()\nclass F: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    for command in ("trusted_packages=[evil] attack._target_=evil.F", f"model={tmp_path}/evil.py:F"):
        run.update({**run.manifest(), "command": f"python run.py {command}"})
        assert "could not be composed here" in command_note(run.manifest())
    assert not (tmp_path / "CANARY").exists()


def test_what_is_not_proven_is_said(run, capsys):
    told = {"commit": "0" * 40, "versions": {"torch": "9"}, "device": "cpu (quantum)", "started": "1999"}
    run.update({**run.manifest(), **told})
    assert verify.main([str(run.path)]) == 0
    assert "stated by the run and not proven: commit, versions, device, dates, seconds" in capsys.readouterr().out


TRAINED = ["defense.parts.model.recipe.epochs=1", "defense.parts.model.recipe.selection.limit=100"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on a network that is trained here."""
    return attacked(tmp_path_factory.mktemp("trained"), *TRAINED)


def test_a_network_trained_here_is_held_against_its_record(trained, tmp_path):
    report = verify.verify(trained)
    assert report.problems == []
    assert any("training was not repeated" in note for note in report.notes)


def test_weights_of_another_training_are_found(trained, tmp_path):
    """AMP weights, under the key of a training by TRADES."""
    root = tmp_path / "runs"
    shutil.copytree(trained.path.parents[4] / "_trained", root / "_trained")
    (folder,) = (root / "_trained").iterdir()
    shutil.copy(ZOO / "digits_small_cnn_amp.safetensors", folder / BEST)
    forged = attacked(root, *TRAINED)  # an honest attack on these weights
    said = problems(forged)
    assert f"the weights of model are not those of {folder.name}: its validation accuracy (clean)" in said
    (folder / "part.json").write_text(json.dumps({"key": "0" * 64}))
    assert "key in part.json is that of another training" in problems(forged)
    (folder / "history.json").unlink()
    assert "have no record of their training" in problems(forged)


def test_only_training_again_tells_weights_that_are_nearly_those_of_the_recipe(trained, tmp_path):
    report = verify.verify(trained, retrain=True)
    assert report.problems == []
    assert any("training was repeated" in note for note in report.notes)
    root = tmp_path / "runs"
    shutil.copytree(trained.path.parents[4] / "_trained", root / "_trained")
    (folder,) = (root / "_trained").iterdir()
    weights = load_file(folder / BEST)
    name = next(name for name, value in weights.items() if value.is_floating_point())
    save_file(weights | {name: weights[name] * (1 + 1e-6)}, folder / BEST)
    forged = attacked(root, *TRAINED)
    assert verify.verify(forged).problems == []
    (line,) = verify.verify(forged, retrain=True).problems
    assert "training again gives sha256:" in line


def test_invented_rows_are_unverified_on_the_board_and_refused_by_the_verifier(run):
    rng = np.random.default_rng(0)

    def invent(table):
        table = survive(table, passes=(11, 10))
        table["margin"] = rng.uniform(1, 2, len(table)).astype(np.float32)
        return table.assign(pred=table["label"], clean_pred=table["label"], broken=False)

    rewrite(run, invent, keep_examples=False)
    claim(run)
    verification, entry = shown(run)
    assert (verification.state, entry.verified, entry.level) == ("foreign", 0, "")
    assert verification.words == "unverified, its verdict is not by the one who built this board"
    assert "the margin is" in problems(run)


def test_a_verdict_by_hand_is_none(run):
    rewrite(run, lambda table: survive(table, passes=(11, 10)), keep_examples=False)
    claim(run)
    assert shown(run)[0].state == "foreign"
    claim(run, seal=hashlib.sha256(b"guess").hexdigest())
    assert shown(run)[0].state == "foreign"
    assert verify.main([str(run.path)]) == 0
    assert shown(run)[0].words == "examples"
    assert verify.main([str(run.path), "--replay", "16"]) == 1
    verification, entry = shown(run)
    assert verification.words == "failed"
    assert "verification-failed" in {flag.name for flag in entry.flags}


def test_a_verdict_of_ours_is_stale_once_a_file_changes_and_void_once_it_is_edited(run):
    assert verify.main([str(run.path), "--full"]) == 0
    verification, entry = shown(run)
    assert (verification.words, entry.level) == ("full", "full")
    assert verification.made
    path = run.path / "verification.json"
    whole = path.read_text()
    path.write_text(whole.replace('"level": "full"', '"level": "more"'))
    assert shown(run)[0].state == "foreign"
    path.write_text(whole)
    run.update({**run.manifest(), "commit": "0" * 40})
    assert shown(run)[0].state == "stale"


def test_a_verdict_without_a_seal_is_told(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert verify.main([str(run.path)]) == 0
    assert capsys.readouterr().err.startswith("warning: no board will believe this verdict")
    assert shown(run)[0].state == "foreign"


def test_the_nonce_repeats_the_choice_and_another_one_changes_it(run, capsys):
    chosen = [verify.verify(run, amount=Amount.of("5"), nonce=nonce).replayed for nonce in ("aa", "aa", "bb")]
    assert chosen[0] == chosen[1]
    assert chosen[0].nonce != chosen[2].nonce
    assert verify.main([str(run.path), "--replay", "5%"]) == 0
    assert "verified (replayed 3 of" in capsys.readouterr().out


@pytest.mark.parametrize("amount", ["0", "101%", "none", "-1", "0%", "1e3"])
def test_an_unfit_amount_gets_one_line(run, amount, capsys):
    assert verify.main([str(run.path), f"--replay={amount}"]) == 1
    assert "is no number of samples and no share" in capsys.readouterr().err


SMOOTHED = {"certifier": "smoothing", "defense": "gaussian_smoothing", "model": "small_cnn"}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    words = [
        "certifier=smoothing",
        "~attack",
        "defense=gaussian_smoothing",
        "threat=l2",
        "threat.eps=1",
        "certifier.samples=200",
    ]
    folder = tmp_path_factory.mktemp("certificates")
    return certify(composed(folder, *words, "dataset.limit=20", "runtime.chunk=8"), SMOOTHED, "python run.py").run


def recertify(run, change):
    for chunk in sorted(run.present()):
        table = change(run.read_part(chunk).to_pandas())
        table["error"] = None
        table["counts"], table["lower"] = table["counts"].map(list), table["lower"].map(list)
        run.write_part(chunk, rows(table.to_dict("list")), run.read_seconds(chunk))
    total = summary(run)
    cost = {**run.manifest()["cost"]["certificate"], "forwards": total.forwards}
    run.update({**run.manifest(), "cost": {"certificate": cost}})


def test_honest_certificates_are_verified_at_every_level(certificates):
    for amount, level in ((None, "counts"), (Amount.of("6"), "replayed 6 of 20"), (EVERYTHING, "full")):
        report = verify.verify(certificates, amount=amount)
        assert (report.problems, report.level, report.verified) == ([], level, True)
    assert report.replayed.equal == 20


def test_the_number_of_a_randomized_bound_is_drawn_again(tmp_path):
    """It is in no record: the bound of another one is not that of this seed and sample."""
    words = ["certifier=smoothing", "~attack", "defense=gaussian_smoothing", "certifier.bound=randomized"]
    cfg = composed(tmp_path, *words, "threat=l2", "threat.eps=1", "certifier.samples=100", "dataset.limit=3")
    run = certify(cfg, SMOOTHED, "python run.py").run
    report = verify.verify(run, amount=EVERYTHING)
    assert (report.problems, report.level, report.verified) == ([], "full", True)

    def luckier(table):
        low = 0.5**0.01 * np.ones(len(table))
        radius = np.floor(0.25 * norm.ppf(low) * 1e6) / 1e6
        return table.assign(counts=[[100]] * len(table), lower=[[each] for each in low], radius=radius)

    recertify(run, luckier)
    assert "votes of 100 give the bounds" in problems(run)


def test_a_radius_that_no_count_gives_is_refused(certificates, tmp_path):
    run = copied(certificates, tmp_path / "runs")
    recertify(run, lambda table: table.assign(radius=np.where(table["predict"] >= 0, 5.0, 0.0)))
    said = problems(run)
    assert "the record says 5.000000" in said
    assert "the largest radius that 200 draws can give is" in said
    claim(run)
    page = build(tmp_path / "runs", tmp_path / "site")
    assert page.certificates[0].claims.verification.state == "foreign"
    assert "unverified, its verdict" in (tmp_path / "site" / "certificates.html").read_text()
    verify.main([str(run.path)])
    page = build(tmp_path / "runs", tmp_path / "site")
    assert not page.certificates[0].claims.counts
    assert "its verification found" in (tmp_path / "site" / "certificates.html").read_text()


def test_counts_that_were_not_drawn_are_found_by_drawing_again(certificates, tmp_path):
    """Every vote for the predicted class, with bounds and radius that follow from them."""
    run = copied(certificates, tmp_path / "runs")
    sigma = verify.rebuild(run, run.manifest()).setup.target.victim.mechanism.noise.sigma
    low = float(beta.ppf(0.001, 200, 1))
    radius = np.floor(np.nextafter(sigma * norm.ppf(low), 0) * 1e6) / 1e6

    def every(table):
        table["counts"], table["lower"] = [[200]] * len(table), [[low]] * len(table)
        return table.assign(predict=table["label"], correct=True, radius=radius)

    recertify(run, every)
    assert problems(run) == ""
    assert "certified anew" in problems(run, Amount.of("16"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label": 3, "predict": 3}, "the label is"),
        ({"correct": False}, "contradict each other"),
        ({"confidence": 0.5}, "the certifier gives sound_prob"),
        ({"samples_used": 5}, "draws and 5 forwards"),
        ({"trials": 7}, "are not those of this certifier"),
    ],
)
def test_rows_of_certificates_cannot_be_forged(certificates, tmp_path, change, words):
    run = copied(certificates, tmp_path / "runs")

    def spoil(table):
        table.loc[table.index[table["correct"]], list(change)] = list(change.values())
        if "samples_used" in change:
            table["forwards"] = table["samples_used"]
        return table

    recertify(run, spoil)
    assert words in problems(run)


@pytest.fixture(scope="module")
def bounds(tmp_path_factory):
    words = ["certifier=crown", "~attack", "defense=trades", "threat.eps=0.02"]
    choices = {"certifier": "crown", "defense": "trades", "model": "small_cnn"}
    folder = tmp_path_factory.mktemp("bounds")
    return certify(composed(folder, *words, "dataset.limit=6", "runtime.chunk=4"), choices, "python run.py").run


def test_bounds_are_proven_again(bounds, tmp_path):
    assert problems(bounds, EVERYTHING) == ""
    run = copied(bounds, tmp_path / "runs")
    recertify(run, lambda table: table.assign(radius=np.where(table["correct"], 0.3, 0.0)))
    assert "gives the radius 0.02, the record says 0.3" in problems(run)
    run = copied(bounds, tmp_path / "more")
    recertify(run, lambda table: table.assign(margin=np.where(table["correct"], 1e4, table["margin"])))
    assert "the margin of the image itself is" in problems(run)
    run = copied(bounds, tmp_path / "less")
    recertify(
        run,
        lambda table: table.assign(
            margin=np.where(table["correct"], 0.05, table["margin"]), radius=np.where(table["correct"], 0.02, 0.0)
        ),
    )
    assert "certified anew, " in problems(run, EVERYTHING)
