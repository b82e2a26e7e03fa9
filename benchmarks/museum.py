"""Broken claims: what the evaluation that is usually claimed reports of gradient-hiding models, and what ours does.

    python -m benchmarks.museum

Each model stands around the shipped undefended network of digits, and is deterministic. Claimed: PGD of 20 steps on the
deployed forward, or on the network without its detector. Ours: `attack=gauntlet`, on every head.
"""

import sys
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import nn

from benchmarks.hidden import Rippled, Rounded, snapped, winners_take_all
from gauntlet.attacks.gauntlet import Gauntlet
from gauntlet.attacks.pgd import PGD
from gauntlet.commands.calibration import Setting
from gauntlet.data.dataset import Batch
from gauntlet.data.fitting import FittingImages
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.evidence.schema import CLEAN_STAGE
from gauntlet.models.layers import frozen
from gauntlet.threat_model.bpda import StandIn
from gauntlet.threat_model.victim import Head, Victim, plain
from gauntlet.threat_model.watched_forward import watched

IMAGES = 200


def modules() -> dict[str, Callable[[nn.Module, torch.Tensor], Victim]]:
    """Return name -> from the network and training images to a victim."""

    def rounded(network: nn.Module, images: torch.Tensor) -> Victim:
        deployed = Rounded(network)
        straight = StandIn(lambda x: (x * deployed.levels).round() / deployed.levels)
        head = Head("straight_through", lambda x, rng: network(straight(x)), stand_in=True)
        return Victim(plain(deployed), (deployed,), (head,))

    def alone(make: Callable[[nn.Module, torch.Tensor], nn.Module]) -> Callable[[nn.Module, torch.Tensor], Victim]:
        def made(network: nn.Module, images: torch.Tensor) -> Victim:
            module = make(network, images).eval()
            return Victim(plain(module), (module,))

        return made

    return {
        "the network itself": alone(lambda network, images: network),
        "pixels rounded": rounded,
        "ripple on the logits": alone(lambda network, images: Rippled(network)),
        "k-WTA": alone(lambda network, images: winners_take_all(network)),
        "mean-sparse": alone(lambda network, images: snapped(network, images)),
    }


DEFENSES = ("confidence", "feature_squeezing", "mahalanobis")


def victims() -> list[tuple[str, Victim]]:
    """Return all models of the museum by name."""
    found = []
    for name, make in modules().items():
        base = Setting.of("none", ["dataset=digits"])
        network = base.models()["model"]
        first = base.dataset.split("train").read(slice(0, 256)).x
        found.append((name, watched(make(network, first))))
    for name in DEFENSES:
        chosen = Setting.of(name, ["dataset=digits"])
        models = chosen.models()
        for module in models.values():
            frozen(module)
        images = FittingImages(chosen.dataset, torch.device("cpu"))
        found.append((f"`{name}`", watched(chosen.defense.fitted(models, images))))
    return found


def left(table: pa.Table) -> float:
    """Return the share of the images that no stage breaks."""
    rows = table.to_pandas()
    assert rows["error"].isna().all()
    return float(1 - rows[rows["broken"]]["sample"].nunique() / rows["sample"].nunique())


def culprit(table: pa.Table) -> str:
    """Return the heads, with the part of the attack, that broke the most images; each meets what earlier ones left."""
    rows = table.to_pandas()
    clean = rows[(rows["stage"] == CLEAN_STAGE) & rows["broken"]]["sample"]
    broken = rows[rows["broken"] & ~rows["sample"].isin(clean) & (rows["stage"] != CLEAN_STAGE)].drop_duplicates(
        "sample"
    )
    phase = broken["phase"].fillna("") if "phase" in broken else broken["stage"].str.slice(0, 0)
    counts = (broken["stage"].str.partition("/")[2] + " " + phase).str.strip().value_counts()
    return ", ".join(f"{name} {count}" for name, count in counts.head(3).items()) or "nothing"


def claimed(victim: Victim, batch: Batch, setting: Setting) -> pa.Table:
    """Return the records of 20 steps of PGD on the deployed forward; of a defense that rejects, on the network without
    its detector."""
    run = Evaluation(
        victim, ("pgd", PGD(steps=20)), setting.threat, 10, heads="declared" if victim.accepts else "true",
        coverage="correct", batch_size=512,
    )  # fmt: skip
    rows = evaluate_chunk(run, batch).rows
    wanted = [CLEAN_STAGE, "pgd/classifier" if victim.accepts else "pgd/true"]
    return rows.filter(pc.is_in(rows["stage"], pa.array(wanted)))


def ours(victim: Victim, batch: Batch, setting: Setting) -> pa.Table:
    """Return the records of `attack=gauntlet` on every head."""
    run = Evaluation(victim, ("gauntlet", Gauntlet()), setting.threat, 10, batch_size=512)
    return evaluate_chunk(run, batch).rows


def main() -> int:
    """Print the table."""
    columns = ("model", "clean", "claimed", "ours", "hidden", "broken by")
    sys.stdout.write("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns) + "\n")
    setting = Setting.of("none", ["dataset=digits"])
    batch = setting.dataset.split("test").read(slice(0, IMAGES))
    for name, victim in victims():
        first, second = claimed(victim, batch, setting), ours(victim, batch, setting)
        clean = left(first.filter(pc.equal(first["stage"], CLEAN_STAGE)))
        reported, found = left(first), left(second)
        shares = f"{clean:.1%} | {reported:.1%} | {found:.1%} | {100 * (reported - found):.1f}"
        sys.stdout.write(f"| {name} | {shares} | {culprit(second)} |\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
