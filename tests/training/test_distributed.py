"""Several processes train the network that one process trains."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gauntlet.errors import UserError
from gauntlet.training import history
from gauntlet.training.distributed import ALONE, ProcessGroup
from gauntlet.training.loop import BEST, LAST
from gauntlet.training.trainer import TrainingRun

SCRIPT = Path(__file__).with_name("together.py")
ROOT = SCRIPT.parents[2]
TOGETHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def _train(folder, *launcher):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    settings = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, *launcher, SCRIPT, folder],
        env=os.environ | settings, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return history.read(folder), load_file(folder / LAST)


@pytest.mark.slow
def test_two_processes_give_the_losses_and_weights_of_one_up_to_the_order_of_sums(tmp_path):
    """With batch norm, TRADES, a perturbation of the weights, sample weights, clipping and an average."""
    (one, weights), (two, others) = _train(tmp_path / "one"), _train(tmp_path / "two", *TOGETHER)
    for left, right in zip(one.epochs, two.epochs, strict=True):
        assert left.loss == pytest.approx(right.loss, rel=1e-5)
        assert (left.forwards, left.backwards) == (right.forwards, right.backwards)
        assert left.clean == pytest.approx(right.clean, abs=0.021)  # two images of 96
    for name, value in weights.items():
        assert torch.allclose(value.float(), others[name].float(), atol=1e-5), name
    assert {path.name for path in (tmp_path / "two").iterdir()} == {BEST, LAST, "history.json"}


def test_a_world_of_one_leaves_everything_as_it_is():
    values = torch.arange(4.0)
    assert ALONE.share(values) is ALONE.gather(values) is ALONE.sum(values) is values
    ALONE.mean([values])
    ALONE.wait()
    assert torch.equal(values, torch.arange(4.0))
    assert ALONE.all(True)
    assert not ALONE.all(False)


def test_a_batch_is_shared_out_in_equal_parts(few, make_net, make_recipe):
    assert [ProcessGroup(rank, 2).share(torch.arange(6)).tolist() for rank in (0, 1)] == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(UserError, match="batch_size=25 must be a multiple of the 2 processes"):
        TrainingRun(make_net(), few, make_recipe(batch_size=25), 0, torch.device("cpu"), ProcessGroup(0, 2))
