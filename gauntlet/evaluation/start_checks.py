"""What is asked of a defense before any work: that each forward can be attacked and judged as it will be.

Costs six passes of one or two images, and one for each head.
"""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from gauntlet.errors import UserError, reason
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.threat_model.access import GRADIENT, level_of
from gauntlet.threat_model.process_settings import settings_kept
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Forward, Victim
from gauntlet.threat_model.watched_forward import WRITES, Watched

log = logging.getLogger(__name__)

UNLIKELY = 0x6A09E667F3BCC908
"""A seed that no forward sets by chance: the first digits of the root of two."""


def check_forwards(run: Evaluation, form: Sequence[int]) -> None:
    """Refuse a defense whose forwards cannot be evaluated as they are.

    Args:
        form: C, H, W of the images.

    Raises:
        UserError: a forward raises, writes into its input, changes a setting of the process, drops the dimension of a
            batch of one, or has no gradient where the attack takes one.
    """
    x, rng = check_predictions(run.victim, form, run.device, run.seed)
    if run.given != GRADIENT:
        return
    for stage in run.stages:
        if level_of(stage.attack) == GRADIENT:
            _check_gradient(stage.head.name, (stage.fast or stage.head).forward, x, rng)


def check_predictions(victim: Victim, form: Sequence[int], device: torch.device, seed: int) -> tuple[Tensor, Rng]:
    """Refuse a defense that cannot predict two images, and one, as they are evaluated; return the one and its draws.

    Args:
        form: C, H, W of the images.
        seed: of the run.

    Raises:
        UserError: the deployed forward raises, writes into its input, changes a setting of the process, or drops the
            dimension of a batch of one.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNLIKELY)  # so that a forward that sets a seed of its own is seen, and each time it does
        state = torch.get_rng_state()
        for count in (2, 1):
            x = torch.rand(count, *form, generator=torch.Generator().manual_seed(count)).to(device)
            x[0, 0, 0, :2] = torch.tensor([0.0, 1.0], device=device)[: x.shape[-1]]  # the ends of the box too
            rng = Rng(seed, torch.arange(count, device=device), "start checks")
            _check_call(victim.predict, x, rng)
        drawn = not torch.equal(state, torch.get_rng_state())
    if drawn:
        log.warning("the model's forward draws from torch's global generator, or seeds it; use the Rng of the defense")
    return x, rng


def _check_call(forward: Forward, x: Tensor, rng: Rng) -> None:
    before = x.clone()
    with torch.no_grad(), settings_kept():
        try:
            forward(x, rng)
            if isinstance(forward, Watched):  # a write past the version counter, as through `.data`
                forward.forward(x, rng)
        except UserError:
            raise
        except Exception as cause:
            shape = list(x.shape)
            raise UserError(f"the defense cannot predict images of shape {shape}: {reason(cause)}") from cause
    if not torch.equal(x, before):
        raise UserError(WRITES)


def _check_gradient(head: str, forward: Forward, x: Tensor, rng: Rng) -> None:
    leaf = x.clone().requires_grad_()
    try:
        with torch.enable_grad():
            reached = forward(leaf, rng).requires_grad
    except UserError:
        raise
    except Exception as cause:
        if "numpy" not in str(cause).lower():  # else the same as a forward that detaches
            raise UserError(f"no gradient of the head {head} can be taken: {reason(cause)}; fix its forward") from cause
        reached = False
    if not reached:
        raise UserError(
            f"no gradient reaches the pixels through the head {head}: its forward detaches them, or leaves torch; "
            "attack with access=score, or give the defense a head with a gradient (gauntlet.threat_model.bpda)"
        )
