"""A small training by all processes of torchrun, or by one: `python together.py FOLDER`."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from conftest import FewDigits, Net

from gauntlet.training.distributed import join
from gauntlet.training.inner_attack import InnerPGD
from gauntlet.training.loop import fit
from gauntlet.training.model_selection import Selection
from gauntlet.training.objectives.objective import TRADESObjective
from gauntlet.training.recipe import Recipe
from gauntlet.training.sample_weighting import SoftmaxWeighting
from gauntlet.training.weight_perturbation import WeightPerturbation

torch.set_num_threads(1)
torch.manual_seed(0)
recipe = Recipe(
    # In l2 and on cross-entropy: signs, and the divergence near its minimum, make much of the last bit of a gradient.
    objective=TRADESObjective(InnerPGD(norm="l2", eps=1.0, steps=2)),
    epochs=2,
    batch_size=32,
    learning_rate=0.02,
    ema=0.9,
    crop=1,
    clip=5.0,
    weight_perturbation=WeightPerturbation(),
    weighting=SoftmaxWeighting(temperature=1.0),
    selection=Selection(eps=0.15, steps=2),
)
fit(Net(), FewDigits(96), recipe, Path(sys.argv[1]), identity="together", progress=False, processes=join())
