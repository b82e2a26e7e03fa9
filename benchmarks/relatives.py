"""PMA and its relatives on public networks: robust accuracy, and the passes that a survivor costs.

    python -m benchmarks.relatives [--network NAME ...] [--attack NAME ...] [--samples 1000] [--knob KEY=VALUE ...]

The networks and their images are looked for in the folder named by GAUNTLET_SHARED, or in ../shared. Attacks are names
of conf/attack. All samples are one chunk. F and B are forward and backward passes and K = F + 2 B, of a survivor, which
is a sample that is right and stays so; the last column is K averaged over all samples that are right.
"""

import argparse
import importlib.util
import os
import sys
import time
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)
from gauntlet.config.shipped import CONF
from gauntlet.data.dataset import Batch
from gauntlet.data.parquet import Parquet
from gauntlet.evaluation.chunk import evaluate_chunk
from gauntlet.evaluation.evaluation import Evaluation
from gauntlet.threat_model.attack import Attack
from gauntlet.threat_model.threat import Threat
from gauntlet.threat_model.victim import Victim, plain

NETWORKS = {
    "pgd_convsmall": ("cifar10_jpeg", Threat("linf", "2/255")),
    "natural_small": ("cifar10_jpeg", Threat("linf", "2/255")),
    "mnist_kw_0.1": ("mnist_test", Threat("linf", 0.1)),
}
ATTACKS = ("mm3", "mm9", "mifpe", "md", "mdmt", "pma", "a3", "mm_plus", "apgd_t")


def network_of(folder: Path, name: str) -> nn.Module:
    spec = importlib.util.spec_from_file_location("networks", folder / "models" / "networks.py")
    assert spec is not None
    assert spec.loader is not None
    networks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(networks)
    network: nn.Module = networks.load(name)
    return network.eval()


def images(folder: Path, name: str, samples: int) -> Batch:
    form = {"channels": 1, "size": 28} if name == "mnist_test" else {}
    data = Parquet(path=str(folder / "data" / name), limit=samples, **form)
    return data.split("test").read(slice(0, samples))


def built(name: str, knobs: list[str]) -> Attack:
    with initialize_config_dir(CONF, version_base=None):
        attack: Attack = instantiate(compose(f"attack/{name}", overrides=knobs).attack, _convert_="all")
    return attack


def row(network: nn.Module, attack: Attack, threat: Threat, batch: Batch) -> str:
    run = Evaluation(Victim(plain(network), (network,)), ("attack", attack), threat, 10, batch_size=100)
    begun = time.process_time()
    rows = evaluate_chunk(run, batch).rows.to_pandas()
    spent = time.process_time() - begun
    assert rows["error"].isna().all()
    robust = 1 - rows["broken"].sum() / len(batch.ids)
    mine = rows[rows["stage"] != "clean"].groupby("sample")[["forwards", "backwards", "broken"]].sum()
    mine["cost"] = mine["forwards"] + 2 * mine["backwards"]
    standing = mine[mine["broken"] == 0]
    means = [standing[key].mean() for key in ("forwards", "backwards", "cost")]
    return (
        f"{100 * robust:.1f} | {means[0]:.0f} | {means[1]:.0f} | {means[2]:.0f} | {mine['cost'].mean():.0f} "
        f"| {spent:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--attack", nargs="+", default=list(ATTACKS))
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--knob", nargs="+", default=[], metavar="attack.field=value")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(os.environ.get("GAUNTLET_SHARED") or "../shared")
    attacks = {" ".join([name, *options.knob]): built(name, options.knob) for name in options.attack}
    out = sys.stdout.write
    out("| network | attack | robust % | F | B | K | K, each | CPU s |\n|---|---|---|---|---|---|---|---|\n")
    for name in options.network:
        data, threat = NETWORKS[name]
        network, batch = network_of(folder, name), images(folder, data, options.samples)
        for label, attack in attacks.items():
            out(f"| {name} | `{label}` | {row(network, attack, threat, batch)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
