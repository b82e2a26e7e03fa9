"""How well the gap after a short screen foretells which samples a longer attack will break.

    python -m benchmarks.gap [--network NAME ...] [--first 5000] [--samples 1000]

For each public network: the samples that stand after the screen of `gauntlet`; those of them that `pma`, `mm9` or
`gauntlet` breaks later, and their gaps; the share of the others whose gap lies above a half.
"""

import argparse
import sys

import torch

import gauntlet  # noqa: F401  (settings that must stand before torch is imported)
from benchmarks.public import NETWORKS, images_of, network_of
from gauntlet.attacks.apgd import APGD
from gauntlet.attacks.gauntlet import PROBABILITY, TRUE, Gauntlet, GauntletState, _plan
from gauntlet.attacks.pma import PMA
from gauntlet.threat_model.attack import Attack
from gauntlet.threat_model.counted_head import CountedHead
from gauntlet.threat_model.counts import Counts
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Victim, plain

LONGER: dict[str, Attack] = {"pma": PMA(), "mm9": APGD(steps=20, loss="margin", targets=9), "gauntlet": Gauntlet()}


def line(name: str, first: int, samples: int) -> str:
    network, (data, threat) = network_of(name), NETWORKS[name]
    ids, x, y = images_of(data, first, samples)
    right = network(x).argmax(1) == y
    ids, x, y = ids[right], x[right], y[right]
    victim = Victim(plain(network), (network,))

    def counted(at: torch.Tensor) -> CountedHead:
        return CountedHead(victim.heads[0], victim.predict, Counts.of(ids[at]))

    everyone = torch.arange(len(ids))
    state = GauntletState(counted(everyone), x, y, threat, Rng(0, ids, "screen"))
    state.run("screen", everyone, _plan(TRUE, PROBABILITY, Gauntlet().steps))
    left = state.survivors()
    late = torch.zeros(len(left), dtype=torch.bool)
    for kind, attack in LONGER.items():
        z = attack(counted(left), x[left], y[left], threat=threat, rng=Rng(1, ids[left], kind))
        late |= network(z).argmax(1) != y[left]
    gaps = state.gaps()[left]
    shown = ", ".join(f"{gap:.2f}" for gap in gaps[late].sort(descending=True).values[:12].tolist())
    far = (gaps[~late] > 0.5).float().mean()
    return f"| {name} | {len(ids)} | {len(left)} | {int(late.sum())} | {shown} | {far:.0%} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", nargs="*", default=list(NETWORKS))
    parser.add_argument("--first", type=int, default=5000)
    parser.add_argument("--samples", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    out = sys.stdout.write
    out("| network | right | stand after the screen | fall later | their gaps | of the rest, gap above 0.5 |\n")
    out("|---|---|---|---|---|---|\n")
    for name in options.network:
        out(line(name, options.first, options.samples) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
