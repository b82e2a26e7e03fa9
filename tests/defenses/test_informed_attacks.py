"""An attack that sees a detector or purifier leaves no more than the one that ignores it, on every shipped one."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra.utils import get_class

from gauntlet.attacks.pma import PMA
from gauntlet.commands.calibration import Setting
from gauntlet.config.shipped import CONF, content
from gauntlet.data.fitting import FittingImages
from gauntlet.defenses.purified import Purified
from gauntlet.defenses.rejection import Rejecting
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.evaluation.randomized_protocol import Protocol
from gauntlet.models.layers import frozen
from gauntlet.threat_model.watched_forward import watched

IGNORANT = {Rejecting: "classifier", Purified: "network"}
"""Kind of defense -> its head that ignores what it adds to the network."""

DRAWS = 5
"""Draws of a gradient here, where a defense takes more."""


def shipped():
    for path in sorted((Path(CONF) / "defense").glob("*.yaml")):
        target = content(path).get("_target_")
        kinds = [kind for kind in IGNORANT if target and issubclass(get_class(target), kind)]
        for kind in kinds if not path.stem.endswith("_cifar") else ():
            yield pytest.param(path.stem, IGNORANT[kind], id=path.stem)


def test_there_are_detectors_and_purifiers():
    assert {parameters.values[0] for parameters in shipped()} >= {"confidence", "mahalanobis", "purified"}


@pytest.mark.parametrize(("name", "ignorant"), list(shipped()))
def test_the_heads_that_see_it_together_leave_no_more_than_the_one_that_does_not(name, ignorant):
    setting = Setting.of(name, ["dataset=digits"])
    models = {part: frozen(module) for part, module in setting.models().items()}
    victim = watched(setting.defense.fitted(models, FittingImages(setting.dataset, torch.device("cpu"))))
    heads = tuple(replace(head, draws=min(head.draws, DRAWS)) for head in victim.surrogates)
    victim = replace(victim, surrogates=heads, draws=min(victim.draws, DRAWS))
    batch = setting.dataset.split("test").read(slice(200, 210 if victim.randomized else 260))
    run = Evaluation(
        victim, ("pma", PMA(steps=10 if victim.randomized else 30)), setting.threat, 10,
        coverage="all" if victim.randomized else "correct", protocol=Protocol(draws=20), batch_size=512,
    )  # fmt: skip
    rows = evaluate_chunk(run, batch).rows.to_pandas()
    assert rows["error"].isna().all()
    wrong = "fresh_share" if victim.randomized else "broken"
    worst = rows.pivot_table(index="sample", columns="stage", values=wrong, aggfunc="max").astype(float)
    clean, heads = worst.pop("clean"), worst.rename(columns=lambda stage: stage.partition("/")[2])
    attacked = heads.fillna(1.0).clip(lower=clean, axis=0)  # those that are wrong without an attack are not attacked
    unaware = attacked.pop(ignorant)
    assert len(attacked.columns) >= 2
    assert unaware.mean() > clean.mean()  # the one that ignores it finds something, or this says nothing
    assert attacked.max(axis=1).mean() >= unaware.mean()
