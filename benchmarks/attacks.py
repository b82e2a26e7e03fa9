"""Our attacks and those of other libraries, side by side in one run: what they find, and what they pay for it.

    python -m benchmarks.attacks [--network NAME ...] [--samples 100] [--repeats 3]

The libraries are optional (`pip install .[bench]`); one that cannot be imported, or fails, is a row that says so. All
get the images that the network gets right, in one batch, the same eps, step size and loss. We judge: a fresh forward of
what an attack returns, which counts only inside the ball and the box. F and B are the forward and backward passes of a
survivor and K = F + 2 B, seen by hooks on the network, which know each image by its nearest clean one; the seconds are
CPU time without the hooks, the best of the repeats. `per gradient`: seconds over B, summed over all images, in units of
one bare forward and backward. `overhead`: seconds over the bare price of all passes that were made.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

import gauntlet
from benchmarks.overhead import bare
from benchmarks.public import NETWORKS, images_of, network_of
from benchmarks.relatives import built
from gauntlet.errors import described
from gauntlet.threat_model.access import narrowed
from gauntlet.threat_model.attack import Attack
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Head, plain

OURS, PGD_STEPS, STEP, APGD_STEPS, QUERIES = "gauntlet", 40, 0.1, 100, 500

Find = Callable[[nn.Module, Tensor, Tensor, Threat], Tensor]
"""(network, images, labels, threat) -> candidates."""


def ours(attack: Attack, network: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    ids = torch.arange(len(x))
    head = CountedHead(Head("true", plain(network), exact=True), plain(network), Counts.of(ids))
    return attack(narrowed(head, attack.needs), x, y, threat=threat, rng=Rng(0, ids))


def torchattacks(name: str, network: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    import torchattacks as library

    kind, knobs = {
        "pgd": (library.PGD, {"alpha": STEP * threat.radius, "steps": PGD_STEPS}),
        "apgd": (library.APGD, {"steps": APGD_STEPS, "loss": "ce"}),
        "square": (library.Square, {"n_queries": QUERIES, "resc_schedule": False}),
        "square, rescaled": (library.Square, {"n_queries": QUERIES}),
    }[name]
    found: Tensor = kind(network, eps=threat.radius, **knobs)(x, y)
    return found


def foolbox(network: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    import foolbox as library

    model = library.PyTorchModel(network, bounds=(0, 1), device="cpu")
    attack = library.attacks.LinfPGD(rel_stepsize=STEP, steps=PGD_STEPS, random_start=True)
    _, found, _ = attack(model, x, library.criteria.Misclassification(y), epsilons=threat.radius)
    return torch.as_tensor(found)


def art(network: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    shape = tuple(x.shape[1:])
    model = PyTorchClassifier(network, nn.CrossEntropyLoss(), shape, 10, clip_values=(0, 1), device_type="cpu")
    attack = ProjectedGradientDescentPyTorch(
        model, eps=threat.radius, eps_step=STEP * threat.radius, max_iter=PGD_STEPS, num_random_init=1,
        batch_size=len(x), verbose=False,
    )  # fmt: skip
    return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))


def adv_lib(name: str, network: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    from adv_lib import attacks

    given = {"model": network, "inputs": x, "labels": y, "loss_function": "ce"}
    if name == "pgd":
        found = attacks.pgd_linf(**given, ε=threat.radius, steps=PGD_STEPS, relative_step_size=STEP)
    else:
        found = gauntlet.attacks.apgd(**given, eps=threat.radius, norm=float("inf"), n_iter=APGD_STEPS)
    return torch.as_tensor(found)


def autoattack(name: str, network: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
    from autoattack.autopgd_base import APGDAttack
    from autoattack.square import SquareAttack

    kind, knobs = (APGDAttack, {"n_iter": APGD_STEPS, "loss": "ce"})
    if name == "square":
        kind, knobs = SquareAttack, {"n_queries": QUERIES, "resc_schedule": False}
    attack = kind(network, norm="Linf", n_restarts=1, eps=threat.radius, seed=0, device="cpu", **knobs)
    found: Tensor = attack.perturb(x, y)
    return found


def contestants() -> list[tuple[str, str, str, Find]]:
    """Attack, library, budget and call; ours first in each group."""
    steps, climbs, queries = f"{PGD_STEPS} steps", f"{APGD_STEPS} steps", f"{QUERIES} queries"
    mine = {
        "pgd": [f"attack.steps={PGD_STEPS}", f"attack.step_size={STEP}"],
        "apgd": [f"attack.steps={APGD_STEPS}"],
        "square": [f"attack.queries={QUERIES}"],
    }
    own = {name: partial(ours, built(name, knobs)) for name, knobs in mine.items()}
    return [
        ("pgd", OURS, steps, own["pgd"]),
        ("pgd", "torchattacks", steps, partial(torchattacks, "pgd")),
        ("pgd", "foolbox", steps, foolbox),
        ("pgd", "art", steps, art),
        ("pgd", "adv-lib", steps, partial(adv_lib, "pgd")),
        ("apgd", OURS, climbs, own["apgd"]),
        ("apgd", "torchattacks", climbs, partial(torchattacks, "apgd")),
        ("apgd", "adv-lib", climbs, partial(adv_lib, "apgd")),
        ("apgd", "autoattack", climbs, partial(autoattack, "apgd")),
        ("square", OURS, queries, own["square"]),
        ("square", "torchattacks", queries, partial(torchattacks, "square")),
        ("square", "torchattacks, rescaled", queries, partial(torchattacks, "square, rescaled")),
        ("square", "autoattack", queries, partial(autoattack, "square")),
        ("pma", OURS, "default", partial(ours, built("pma", []))),
        ("gauntlet", OURS, "default", partial(ours, built("gauntlet", []))),
    ]


class Whole(nn.Module):
    """A network that is called as a whole: some libraries walk through the layers of a Sequential, past its hooks."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits


class Hooks:
    """Passes of a network for each of its images x [B, C, H, W], whoever makes them; a row belongs to the nearest."""

    def __init__(self, x: Tensor) -> None:
        self.x = x.flatten(1)
        self.forwards, self.backwards = (torch.zeros(len(x), dtype=torch.int64) for _ in range(2))

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
        rows = torch.cdist(inputs[0].detach().flatten(1), self.x).argmin(1)
        booked = torch.bincount(rows, minlength=len(self.x))
        self.forwards += booked
        if logits.requires_grad:
            logits.register_hook(lambda _: self._backward(booked))  # type: ignore[no-untyped-call]

    def _backward(self, booked: Tensor) -> None:
        self.backwards += booked


@dataclass(frozen=True)
class Row:
    """What an attack found and what it cost."""

    robust: float  # share of all samples
    outside: int  # candidates outside the threat, counted as robust
    forwards: float  # of a survivor, and so the next
    backwards: float
    seconds: float
    per_gradient: float  # of bare forward and backward passes; NaN without gradients
    overhead: float

    @property
    def cost(self) -> float:
        return self.forwards + 2 * self.backwards

    def told(self) -> str:
        passes = f"{self.forwards:.1f} | {self.backwards:.1f} | {self.cost:.1f} | {self.seconds:.2f}"
        ratios = f"{self.per_gradient:.2f} | {self.overhead:.2f}".replace("nan", "")
        return f"{100 * self.robust:.1f} | {self.outside} | {passes} | {ratios}"


def seconds(call: Callable[[], object]) -> float:
    """CPU time, with the generators of the libraries set alike."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (the one that a library draws from)
    begun = time.process_time()
    call()
    return time.process_time() - begun


def measured(find: Find, network: nn.Module, x: Tensor, y: Tensor, threat: Threat, samples: int, repeats: int) -> Row:
    """The row of an attack on images x that the network gets right, out of `samples`."""
    hooks, kept, bares, network = Hooks(x), [x], 5, Whole(network).eval()
    handle = network.register_forward_hook(hooks)
    try:
        seconds(lambda: kept.append(find(network, x.clone(), y.clone(), threat).detach()))
    finally:
        handle.remove()
    with torch.no_grad():
        legal = threat.contains(kept[-1], x)
        fooled = legal & (network(kept[-1]).argmax(1) != y)
    stand = (~fooled).nonzero().squeeze(1)
    spent, gradient, forward = [], [], []
    for _ in range(repeats):
        gradient.append(seconds(lambda: bare(network, network, x, bares, 0)) / bares / len(x))
        forward.append(seconds(lambda: bare(network, network, x, 0, bares)) / bares / len(x))
        spent.append(seconds(lambda: find(network, x.clone(), y.clone(), threat)))
    f, b = int(hooks.forwards.sum()), int(hooks.backwards.sum())
    needed = b * min(gradient) + (f - b) * min(forward)
    return Row(
        robust=len(stand) / samples,
        outside=int((~legal).sum()),
        forwards=float(hooks.forwards[stand].double().mean()),
        backwards=float(hooks.backwards[stand].double().mean()),
        seconds=min(spent),
        per_gradient=min(spent) / b / min(gradient) if b else float("nan"),
        overhead=min(spent) / needed if needed else float("nan"),
    )


def targets(rows: dict[tuple[str, str], Row]) -> list[str]:
    """What was asked of us, each with the cases that miss it."""
    peers = {key: row for key, row in rows.items() if key[1] != OURS}
    mine = {key[0]: row for key, row in rows.items() if key[1] == OURS}
    pairs = [(name, key, row, peers[key]) for name, row in mine.items() for key in peers]
    group = ("pgd", "apgd", "square")  # the others are held against every peer
    weak = [
        f"{n} {100 * r.robust:.1f} against {key[1]} {key[0]} {100 * p.robust:.1f}"
        for n, key, r, p in pairs
        if r.robust > p.robust and (n == key[0] or n not in group)
    ]
    slow = [
        f"{n} {r.per_gradient:.2f} against {key[1]} {p.per_gradient:.2f}"
        for n, key, r, p in pairs
        if n == key[0] and r.per_gradient > p.per_gradient
    ]
    loop = [f"{name} {row.overhead:.2f}" for name, row in mine.items() if row.overhead > 1.05]
    asked = {"robust accuracy never above a peer's": weak, "per gradient never above a peer's": slow}
    asked["overhead at most 1.05"] = loop
    return [f"- {what}: {'missed: ' + '; '.join(missed) if missed else 'met'}" for what, missed in asked.items()]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", nargs="+", default=["pgd_convsmall", "natural_small"], choices=NETWORKS)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.network:
        data, threat = NETWORKS[name]
        network, batch = network_of(name), images_of(data, 0, options.samples)
        with torch.no_grad():
            right = network(batch.x).argmax(1) == batch.y
        x, y, rows = batch.x[right], batch.y[right], {}
        say(f"\n{name}, {threat.label}, {len(x)} of {options.samples} images are right\n")
        say("| attack | library | budget | robust % | outside | F | B | K | seconds | per gradient | overhead |")
        say("|---|---|---|---|---|---|---|---|---|---|---|")
        for attack, library, budget, find in contestants():
            try:
                row = measured(find, network, x, y, threat, options.samples, options.repeats)
            except Exception as cause:  # a library that is missing or does not run here is a result
                if library == OURS:
                    raise
                say(f"| {attack} | {library} | {described(cause)} |||||||||")
                continue
            rows[attack, library] = row
            say(f"| {attack} | {library} | {budget} | {row.told()} |")
        say("\n" + "\n".join(targets(rows)))


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
