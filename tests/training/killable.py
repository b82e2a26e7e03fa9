"""A small training that saves its state after every step; whoever runs it sets FOLDER, and AVERAGE to ema or swa.

Everything that has a state is on: the perturbation of the weights, a weighting, an average, momentum, dropout.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from conftest import FewDigits, Net

from gauntlet.training.inner_attack import InnerPGD
from gauntlet.training.loop import fit
from gauntlet.training.model_selection import Selection
from gauntlet.training.objectives.objective import PGDAT
from gauntlet.training.recipe import Recipe
from gauntlet.training.sample_weighting import SoftmaxWeighting
from gauntlet.training.weight_averaging import SWA
from gauntlet.training.weight_perturbation import WeightPerturbation

torch.set_num_threads(1)
torch.manual_seed(0)
recipe = Recipe(
    objective=PGDAT(InnerPGD(eps=0.15, steps=2)),
    epochs=3,
    batch_size=10,
    ema=0.9 if globals()["AVERAGE"] == "ema" else 0.0,
    swa=SWA(start=0.0, limit=50) if globals()["AVERAGE"] == "swa" else None,
    weight_perturbation=WeightPerturbation(start=0.3),
    weighting=SoftmaxWeighting(temperature=2.0, rate=0.1),
    crop=1,
    clip=5.0,
    selection=Selection(eps=0.15, steps=2),
)
fit(Net(0.3), FewDigits(), recipe, Path(globals()["FOLDER"]), identity="killable", progress=False, save_seconds=0.0)
