"""How honest the surrogates of a defense are: whether they say on clean images what the deployed defense says."""

import torch

from harness.checks import PROBE
from harness.data.contract import Batch
from harness.evaluate import Evaluation
from harness.rng import Rng


@torch.no_grad()
def fidelity(run: Evaluation, batch: Batch) -> dict[str, dict[str, int]]:
    """Head -> on how many `of` the first images, at most 64, its class `agrees` with the deployed one and is `right`.

    One draw of each, the same for all heads. Costs one forward pass of each image for each head.
    """
    order = batch.ids.argsort()[:PROBE]
    ids, x, y = (t[order].to(run.device) for t in batch)
    rng = Rng(run.seed, ids, "fidelity")
    deployed = run.victim.predict(x, rng).argmax(1)
    found = {}
    for head in run.victim.surrogates:
        said = head.forward(x, rng).argmax(1)
        found[head.name] = {
            "agrees": int((said == deployed).sum()),
            "right": int((said == y).sum()),
            "of": len(ids),
        }
    return found
