"""run.py and its neighbors, as a user runs them."""

import json
import os
import shlex
import shutil
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException

from gauntlet.commands.terminal import one_line
from gauntlet.config.shipped import CONF
from gauntlet.errors import UserError
from gauntlet.jobs.attack_job import evaluate
from tests.program_server import call, start

ROOT = Path(__file__).parent.parent
QUICK = ["attack=pgd", "attack.steps=5", "runtime.progress=false"]


def only_run(folder):
    (manifest,) = [path for path in folder.rglob("run.json") if "_trained" not in path.parts]
    return manifest.parent


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The runs folder and the output of one short evaluation."""
    folder = tmp_path_factory.mktemp("runs")
    return folder, call(*QUICK, f"runs_dir={folder}")


def test_a_run_reports_and_leaves_evidence(finished):
    folder, done = finished
    assert done.returncode == 0, done.stderr
    for words in (
        "clean accuracy",
        "robust accuracy",
        "95 % interval",
        "pgd/true",
        "evidence:",
        "next: gauntlet verify ",
        "next: gauntlet board",
    ):
        assert words in done.stdout
    manifest = json.loads((only_run(folder) / "run.json").read_text())
    assert manifest["status"] == "done"
    assert manifest["stages"] == ["clean", "pgd/true"]
    assert manifest["threat"]["eps"] == "0.15"
    assert manifest["dataset"]["digest"].startswith("sha256:")
    assert all(digest.startswith("sha256:") for digest in manifest["weights"].values())
    assert manifest["command"].startswith("python ")


def test_a_finished_run_is_not_done_again(finished):
    folder, first = finished
    part = only_run(folder) / "records" / "part-00000.parquet"
    before = part.stat().st_mtime_ns
    again = call(*QUICK, f"runs_dir={folder}")
    assert again.returncode == 0
    assert part.stat().st_mtime_ns == before
    assert again.stdout == first.stdout


def test_verify_reloads_and_confirms(finished):
    folder, _ = finished
    done = call(str(only_run(folder)), script="-m gauntlet verify")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("verified (examples): ")
    content = json.loads((only_run(folder) / "verification.json").read_text())
    assert content["verified"] is True
    assert content["checked"] == content["claimed"] > 0


def test_verify_finds_a_forged_example(finished, tmp_path):
    from safetensors.numpy import load_file, save_file

    folder, _ = finished
    copy = tmp_path / "run"
    shutil.copytree(only_run(folder), copy)
    path = copy / "adversarial" / "part-00000.safetensors"
    tensors = {name: value.copy() for name, value in load_file(path).items()}
    tensors["z"][0] = tensors["x"][0]  # the clean image is no adversarial example
    tensors["z"][1] = (tensors["z"][1] + 0.2).clip(0, 1)  # too far
    save_file(tensors, path, {"stages": json.dumps(["pgd/true"])})
    done = call(str(copy), script="-m gauntlet verify")
    assert done.returncode == 1
    assert "predicts the true class" in done.stdout
    assert "exceeds eps" in done.stdout


def test_status_lists_the_run(finished):
    folder, _ = finished
    done = call(str(folder), script="-m gauntlet status")
    assert done.returncode == 0
    assert done.stdout.startswith("done ")
    assert done.stdout.strip().endswith("1 done")


def test_kill_9_at_any_moment_loses_nothing(tmp_path):
    """100 steps make a chunk of six take tenths of a second, so that no kill comes after the end of the run; many
    kills in one process are in tests/jobs/test_kills.py.
    """
    slow = [*QUICK, "attack.steps=100", "runtime.chunk=32", "dataset.limit=192"]
    command = [*slow, f"runs_dir={tmp_path}"]
    parts = lambda: len(list(tmp_path.rglob("part-*.parquet")))  # noqa: E731
    process = start(*command)
    while process.poll() is None and parts() < 2:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert json.loads((only_run(tmp_path) / "run.json").read_text())["status"] != "done"
    done = call(*command)
    assert done.returncode == 0, done.stderr
    undisturbed = tmp_path / "undisturbed"
    assert call(*slow, f"runs_dir={undisturbed}").returncode == 0
    assert records(only_run(tmp_path / "digits")).equals(records(only_run(undisturbed)))  # to the last bit


def records(folder):
    table = pd.concat(pd.read_parquet(path) for path in sorted(folder.glob("records/*.parquet")))
    return table.sort_values(["stage", "sample"], ignore_index=True)


def same_evidence(one, two):
    """Equal draws and verdicts. Another cut into batches may round float32 margins differently, and nothing else."""
    pd.testing.assert_frame_equal(records(one), records(two), check_exact=False, rtol=1e-5, atol=1e-5)


def test_shards_together_are_the_whole(finished, tmp_path):
    folder, _ = finished
    for shard in range(2):
        done = call(*QUICK, "runtime.chunk=100", "runtime.shards=2", f"runtime.shard={shard}", f"runs_dir={tmp_path}")
        assert done.returncode == 0, done.stderr
    manifest = json.loads((only_run(tmp_path) / "run.json").read_text())
    assert manifest["status"] == "done"
    same_evidence(only_run(tmp_path), only_run(folder))


def refused(done, *words):
    """One clear line on stderr, a non-zero exit, no traceback."""
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    for word in words:
        assert word in errors[0], errors[0]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("threat.eps=-0.1", ("threat.eps=-0.1", "positive")),
        ("threat.eps=0", ("threat.eps=0", "positive")),
        ("threat.eps=many", ("threat.eps='many'", "8/255")),
        ("threat.norm=l3", ("threat.norm='l3'", "linf, l2, l1, l0")),
        ("attack.steps=abc", ("attack.steps=abc", "whole number")),
        ("attack.steps=1.5", ("attack.steps=1.5", "whole number")),
        ("+attack.foo=1", ("unknown option attack.foo",)),
        ("+attack.stepz=3", ("unknown option attack.stepz", "steps")),
        ("+dataset.limitt=3", ("unknown option dataset.limitt", "limit")),
        ("+foo=1", ("unknown option foo",)),
        ("+defense.parts.model.recipe.epoch=1", ("defense.parts.model.recipe.epoch", "epochs")),
        ("attack.steps=0", ("attack.steps=0",)),
        ("heads=none", ("heads=none", "declared or deployed")),
        ("access=none", ("access=none", "gradient, score or decision")),
        ("access=decision", ("attack=pgd needs gradients", "decisions only", "rays or hop_skip_jump")),
        ("access=score", ("attack=pgd needs gradients", "scores only", "square")),
        ("dataset.limit=0", ("limit",)),
        ("dataset.limit=100000", ("limit",)),
        ("runtime.device=cuda:7", ("runtime.device=cuda:7", "cpu")),
        ("runtime.batch_size=0", ("runtime.batch_size=0",)),
        ("attack._target_=os.system", ("outside gauntlet's packages", "trusted_packages")),
        ("attack._target_=gauntlet.attacks.pgd.PDG", ("gauntlet.attacks.pgd.PDG", "does not exist")),
        ("checkpoint=/nowhere/model.pt", ("/nowhere/model.pt",)),
        ("attack.loss=cw", ("loss=", "ce, margin, dlr, pm")),
        ("runs_dir=/proc/nowhere", ("/proc/nowhere", "runs_dir")),
        ("dataset=cifar10", ("download",)),
    ],
)
def test_bad_input_gets_one_line(override, words, tmp_path):
    complaint = complaint_of(*QUICK, f"runs_dir={tmp_path}", override)
    for word in words:
        assert word in complaint, complaint
    assert not list(tmp_path.rglob("run.json"))


def complaint_of(*overrides):
    """What `run.py` would print after `error: `; asked in this process, because a new one takes seconds."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base=None), pytest.raises(UserError) as caught:
        evaluate(compose("run", list(overrides)), {}, "python run.py")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_mistake_ends_with_one_line_and_status_1(tmp_path):
    done = call(*QUICK, f"runs_dir={tmp_path}", "checkpoint=/nowhere/model.pt")
    assert done.returncode == 1
    refused(done, "checkpoint")


@pytest.mark.parametrize("word", ["pgd", "5", "attack==pgd", "defense.members=[pgd_at,mart", "runtime.keep='first 5"])
def test_an_argument_that_cannot_be_read_is_named(word):
    with pytest.raises(OverrideParseException) as caught:
        OverridesParser.create().parse_overrides([word])
    said = one_line(caught.value)
    assert said.startswith(f"the argument {word!r} cannot be read; write key=value")
    (way,) = shlex.split(said.rpartition("twice: ")[2])  # as a shell hands it over
    assert OverridesParser.create().parse_override(way).value() == "first 5"


def test_a_sweep_with_a_wrong_choice_leaves_no_cells(tmp_path):
    done = call("-m", "attack=pgd,arcc", "defense=none", f"runs_dir={tmp_path}")
    assert done.returncode == 1
    refused(done, "there is no attack=arcc", "did you mean arc?")
    assert not list(tmp_path.iterdir())


def test_eps_may_be_a_fraction(tmp_path):
    done = call(*QUICK, "threat.eps=8/255", f"runs_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "linf-8_255" in str(only_run(tmp_path))


def test_a_wrong_choice_lists_the_right_ones():
    done = call("attack=pgdd")
    assert done.returncode != 0
    assert "did you mean pgd?" in done.stderr
    assert "pgd" in done.stderr.split("the choices are")[1]


def test_help_lists_the_choices():
    done = call("--help")
    assert done.returncode == 0
    for choice in ("adaptive_smoothing", "pma", "digits", "wandb", "linf"):
        assert choice in done.stdout


@pytest.mark.parametrize(
    "content", [b"", b"<html>not found</html>", b"\x80\x04garbage", "truncated", "foreign", "classes"]
)
def test_a_bad_checkpoint_gets_one_line(content, tmp_path):
    path = tmp_path / "model.pt"
    if content == "truncated":
        torch.save({"w": torch.zeros(1000)}, path)
        path.write_bytes(path.read_bytes()[:700])
    elif content == "foreign":
        torch.save({"conv.weight": torch.zeros(3)}, path)
    elif content == "classes":
        from gauntlet.models.small_cnn import SmallCNN

        torch.save(SmallCNN(classes=7, channels=1, size=8).state_dict(), path)
    else:
        path.write_bytes(content)
    assert "model.pt" in complaint_of(*QUICK, f"checkpoint={path}", f"runs_dir={tmp_path}/runs")


def test_a_damaged_part_is_set_aside_and_done_again(finished, tmp_path):
    folder, _ = finished
    root = tmp_path / "runs"
    shutil.copytree(folder, root)
    part = only_run(root) / "records" / "part-00000.parquet"
    manifest = json.loads((only_run(root) / "run.json").read_text())
    (only_run(root) / "run.json").write_text(json.dumps(manifest | {"status": "running"}))
    part.write_bytes(part.read_bytes()[:-40])
    done = call(*QUICK, f"runs_dir={root}")
    assert done.returncode == 0, done.stderr
    assert "damaged" in done.stdout + done.stderr
    assert records(only_run(root)).equals(records(only_run(folder)))
    assert list(only_run(root).rglob("*.damaged"))


def test_a_damaged_part_of_a_finished_run_is_named(finished, tmp_path):
    folder, _ = finished
    root = tmp_path / "runs"
    shutil.copytree(folder, root)
    part = only_run(root) / "records" / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-40])
    done = call(*QUICK, f"runs_dir={root}")
    assert done.returncode == 0, done.stderr
    assert records(only_run(root)).equals(records(only_run(folder)))


def test_two_processes_at_once_on_one_run(tmp_path):
    command = ["attack=pgd", "attack.steps=400", "runtime.chunk=4", "runtime.progress=false", f"runs_dir={tmp_path}"]
    first = start(*command)
    try:
        while not list(tmp_path.rglob("part-*.parquet")) and first.poll() is None:
            time.sleep(0.01)
        assert first.poll() is None
        os.kill(first.pid, signal.SIGSTOP)  # it holds its lock, and leaves the processor to the others
        second = call(*command)
        refused(second, "is working on", "runtime.shards")
        state = call(str(tmp_path), script="-m gauntlet status")
        assert state.stdout.startswith("running ")
    finally:
        first.kill()
        first.wait()
    assert call(str(tmp_path), script="-m gauntlet status").stdout.startswith("interrupted ")


def test_a_sweep_takes_options_that_all_its_choices_have(tmp_path):
    few = ["attack.queries=3", "dataset.limit=5", "runtime.progress=false", f"runs_dir={tmp_path}"]
    done = call("-m", "attack=square,rays", *few)
    assert done.returncode == 0, done.stderr
    assert sorted(path.parent.parent.name for path in tmp_path.rglob("run.json")) == ["rays", "square"]
    refused(call("-m", "attack=pgd,square", *few), "attack.queries=3: attack=pgd has no queries", "attack=square")


def test_a_sweep_goes_on_after_a_bad_cell_and_ends_non_zero(tmp_path):
    done = call("-m", *QUICK, "threat.eps=-1,0.1", "dataset.limit=20", f"runs_dir={tmp_path}")
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1
    assert len([p for p in tmp_path.rglob("run.json") if "_trained" not in p.parts]) == 1


def test_a_model_and_data_of_the_users_own(shared, tmp_path):
    done = call(
        *QUICK, "dataset=parquet", f"dataset.path={shared}/data/cifar10_jpeg", "dataset.name=cifar10_jpeg",
        "dataset.limit=20", "model._target_=networks.load", "+model.name=at_resnet2b", "~model.classes",
        "~model.channels", "~model.size", "~model.width", "checkpoint=included",
        "trusted_packages=[networks]", "threat.eps=2/255", f"runs_dir={tmp_path}", PYTHONPATH=f"{shared}/models",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "clean accuracy" in done.stdout
    path = f"{shared}/models"
    strange = call(str(tmp_path), script="-m gauntlet verify", PYTHONPATH=path)
    refused(strange, "--trust networks")
    assert call(str(tmp_path), "--trust", "networks", script="-m gauntlet verify", PYTHONPATH=path).returncode == 0


def test_a_mixture_is_attacked_through_every_head_and_verified(tmp_path):
    small = ["attack=pma", "attack.steps=10", "dataset.limit=20", "runtime.progress=false", f"runs_dir={tmp_path}"]
    done = call("defense=adaptive_smoothing", *small)
    assert done.returncode == 0, done.stderr
    for head in ("true", "robust", "least_alpha", "accurate", "gamma"):
        assert f"pma/{head}" in done.stdout
    assert not (tmp_path / "_trained").exists()  # all parts are shipped
    verified = call(str(tmp_path), script="-m gauntlet verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_attacks_on_the_deployed_forward_are_for_comparison_only(tmp_path):
    done = call(*QUICK, "defense=mixing", "heads=deployed", "dataset.limit=20", f"runs_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "pgd/robust" not in done.stdout
    assert "not ranked: heads=deployed" in done.stdout
    assert json.loads((only_run(tmp_path) / "run.json").read_text())["stages"] == ["clean", "pgd/true"]


def test_a_missing_part_or_missing_examples_are_done_again(finished, tmp_path):
    folder, _ = finished
    root = tmp_path / "runs"
    shutil.copytree(folder, root)
    run = only_run(root)
    (run / "records" / "part-00001.parquet").unlink()
    (run / "adversarial" / "part-00000.safetensors").unlink()
    assert call(str(root), script="-m gauntlet status").stdout.startswith("interrupted ")
    done = call(*QUICK, f"runs_dir={root}")
    assert done.returncode == 0, done.stderr
    assert call(str(root), script="-m gauntlet status").stdout.startswith("done ")
    assert call(str(root), script="-m gauntlet verify").returncode == 0
    same_evidence(run, only_run(folder))
