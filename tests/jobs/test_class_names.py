"""Names of classes reach the record, the report, the board's pictures and W&B's tables."""

import json

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from gauntlet.commands.attack_report import lines
from gauntlet.config.shipped import CONF
from gauntlet.jobs.attack_job import evaluate
from gauntlet.leaderboard.build import build
from gauntlet.metrics.attack_summary import AttackSummary
from gauntlet.metrics.class_accuracy import worst_classes
from gauntlet.models.small_cnn import SmallCNN
from gauntlet.tracking import wandb_summary
from gauntlet.tracking.example_images import examples
from gauntlet.tracking.wandb_tracker import _tables

NAMES = ["eel", "fox", "<cat>"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("named")


@pytest.fixture(scope="module")
def outcome(folder):
    torch.manual_seed(0)
    x, net = torch.rand(60, 1, 8, 8), SmallCNN(3, 1, 8).eval()
    with torch.no_grad():
        *_, head = (module for module in net.modules() if isinstance(module, torch.nn.Linear))
        head.bias -= net(x).mean(0)  # so that it does not give one class to all
        y = net(x).argmax(1)
    chosen = torch.cat([(y == label).nonzero()[:10, 0] for label in range(3)])
    np.savez(folder / "set.npz", x=x[chosen], y=y[chosen])
    torch.save(net.state_dict(), folder / "net.pt")
    (folder / "names.json").write_text(json.dumps(NAMES))
    with initialize_config_dir(CONF, version_base=None):
        cfg = compose(
            "run",
            [
                f"dataset.path={folder / 'set.npz'}", f"dataset.class_map={folder / 'names.json'}", "dataset=arrays",
                "dataset.classes=3", "dataset.size=8", "dataset.channels=1", f"checkpoint={folder / 'net.pt'}",
                "attack=fgsm", "threat.eps=0.3", "runtime.progress=false", f"runs_dir={folder / 'runs'}",
            ],
        )  # fmt: skip
    return evaluate(cfg, {"attack": "fgsm", "defense": "none"}, "")


def test_the_record_has_them(outcome):
    assert outcome.manifest["dataset"]["class_names"] == NAMES


def test_the_report_names_the_worst_classes(outcome):
    robust = dict.fromkeys(range(3), 0)
    for chunk in outcome.run.present():
        rows = outcome.run.read_part(chunk).to_pandas()
        broken = rows.groupby("sample")["broken"].any()
        labels = rows.groupby("sample")["label"].first()
        for sample, fell in broken.items():
            robust[int(labels[sample])] += not fell
    assert outcome.summary.classes == {label: (10, robust[label]) for label in range(3)}
    worst = min(robust, key=lambda label: (robust[label], label))
    (line,) = [line for line in lines(outcome) if line.startswith("worst classes")]
    assert line.startswith(f"worst classes    {worst} {NAMES[worst]}: {robust[worst]} of 10, ")


def test_the_pictures_of_the_board_have_them(outcome, folder):
    build(folder / "runs", folder / "site")
    (page,) = [text for path in (folder / "site").rglob("*.html") if "-adversarial.png" in (text := path.read_text())]
    shown = examples(outcome.run, outcome.manifest["stages"], 99)
    assert shown
    for name in {NAMES[example.label] for example in shown}:
        assert f"<figcaption>{NAMES.index(name)} {name.replace('<', '&lt;').replace('>', '&gt;')}</figcaption>" in page
    assert "<cat>" not in page


def test_the_tables_of_wandb_have_them(outcome):
    table = _tables(outcome.summary, examples(outcome.run, outcome.manifest["stages"], 3), NAMES)["examples"]
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.data]
    assert {row["label_name"] for row in rows} <= {f"{number} {name}" for number, name in enumerate(NAMES)}
    assert "class_names" not in wandb_summary.config(outcome.manifest)["evidence"]["dataset"]


@pytest.mark.parametrize(
    ("classes", "names", "said"),
    [
        ({0: (10, 5), 1: (10, 2), 2: (10, 9), 3: (10, 1)}, list("abcd"), "3 d: 1 of 10, 1 b: 2 of 10, 0 a: 5 of 10"),
        ({0: (10, 5), 1: (4, 0), 2: (5, 2)}, list("abc"), "2 c: 2 of 5, 0 a: 5 of 10"),
        ({0: (10, 5), 1: (4, 0)}, list("ab"), None),
        ({0: (10, 5), 1: (10, 0)}, [], None),
        ({0: (10, 10), 1: (10, 10)}, list("ab"), None),
        ({0: (10, 10), 1: (10, 9)}, list("ab"), "1 b: 9 of 10"),
    ],
)
def test_classes_with_few_images_are_no_worst_classes(classes, names, said):
    found = worst_classes(AttackSummary(classes=classes), names)
    assert found == ([f"worst classes    {said}"] if said else [])
