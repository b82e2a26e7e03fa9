"""Digest the records of every attack, certifier, defense and protocol on `digits`, to compare two commits.

    python -m benchmarks.record_digests CHECKOUT OUT.json     # one JSON object: command -> digests of its run
    python -m benchmarks.record_digests --compare OLD.json NEW.json

Each command runs in a process of its own, on one thread, with the interpreter that this script runs in. A digest covers
the rows, without seconds, and the stored adversarial examples; beside it stand the run's hash and the victim's.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
from safetensors import safe_open
from safetensors.numpy import save

SMALL = ["dataset.limit=16", "runtime.chunk=10", "runtime.progress=false", "runtime.device=cpu"]
RANDOMIZED = ["arc", "arc_recentred", "arc_released", "arc_plus", "lattice_climber", "expected_pgd", "autoattack_rand"]
UNBOUNDED = ["fmn", "ddn", "pdpgd", "sigma_zero", "fab_nearest", "search"]
TRANSFER = [
    "mi",
    "ni",
    "vmi",
    "pgn",
    "di",
    "ti",
    "si",
    "admix",
    "sia",
    "bsr",
    "ens",
    "ens_losses",
    "ens_probabilities",
    "svre",
    "adaea",
    "adaea_released",
    "ni_admix_ti_dim",
    "ni_si_ti_dim",
    "pubdef",
]
UNIVERSAL = ["uap", "spgd", "sga"]
DECISION = ["rays", "hop_skip_jump"]
SURROGATES = ["+defense@surrogates.a=none", "+defense@surrogates.b=adversarial_training"]
SMOOTHED = ["certifier.samples=500"]
CERTIFIERS = {
    "smoothing": ["defense=gaussian_smoothing", *SMOOTHED],
    "dual_smoothing": ["defense=dual_smoothing", *SMOOTHED],
    "mixing": ["defense=smoothed_mixing", *SMOOTHED],
    "patches": ["defense=band_smoothing"],
    "mixing_bounds": ["defense=adaptive_smoothing", "threat.eps=0.05"],
    **{name: ["defense=trades", "threat.eps=0.05"] for name in ("ibp", "crown_ibp", "crown", "alpha_crown")},
    "branch_and_bound": ["defense=trades", "threat.eps=0.1", "certifier.domains=100", "certifier.easy=50"],
}
EXTRA = [
    *(["attack=pgd", f"threat={norm}"] for norm in ("l2", "l1")),
    *([f"attack={name}", f"threat={norm}"] for name in ("apgd", "gauntlet", "fab", "square") for norm in ("l2", "l1")),
    ["attack=pma", "defense=adaptive_smoothing"],
    ["attack=gauntlet", "defense=adaptive_smoothing"],
    ["attack=square", "access=score"],
    ["attack=pgd", "heads=true", "defense=adaptive_smoothing"],
    ["attack=pgd", "runtime.gradients=bfloat16"],
    *(["attack=pgd", "defense=randomized_ensemble", f"protocol={name}"] for name in ("vote", "fixed", "predict")),
    ["attack=pgd", "defense=gaussian_smoothing", "protocol=vote", "protocol.draws=9"],
    ["attack=pgd", "defense=gaussian_smoothing", "protocol=fixed"],
    ["certifier=smoothing", "defense=gaussian_smoothing", "certifier.rule=grid", *SMOOTHED],
]


def commands(checkout: Path) -> list[list[str]]:
    """Return the overrides of every run: each attack, each defense, each certifier, and the extra ones."""
    names = {
        group: sorted(p.stem for p in (checkout / "conf" / group).glob("*.yaml"))
        for group in ("attack", "defense", "certifier")
    }
    out = []
    for attack in names["attack"]:
        if attack in ("foreign", "stored"):
            continue
        words = [f"attack={attack}"]
        if attack in RANDOMIZED:
            words.append("defense=randomized_ensemble")
        if attack in UNBOUNDED:
            words += [
                "threat.eps=unbounded",
                *(["threat=l2"] if attack == "ddn" else ["threat=l0"] if attack == "sigma_zero" else []),
            ]
        if attack in TRANSFER:
            words += ["defense=trades", *SURROGATES]
        if attack in UNIVERSAL:
            words += ["attack.images=300"]
        if attack in DECISION:
            words += ["access=decision", "attack.queries=300", *(["threat=l2"] if attack == "hop_skip_jump" else [])]
        out.append(words)
    out += [["attack=pgd", f"defense={name}"] for name in names["defense"] if "cifar" not in name]
    out += [[f"certifier={name}", *CERTIFIERS.get(name, [])] for name in names["certifier"]]
    return out + EXTRA


def digest(checkout: Path, words: list[str]) -> dict[str, str]:
    """Return the digests of one command's run, or what it said where it left none."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    env.pop("PYTHONPATH", None)
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, str(checkout / "run.py"), *words, *SMALL, f"runs_dir={folder}"],
            capture_output=True, text=True, cwd=checkout, env=env, check=False,
        )  # fmt: skip
        runs = [
            p for p in Path(folder).rglob("run.json") if not any(q.startswith("_") for q in p.relative_to(folder).parts)
        ]
        if len(runs) != 1:
            return {"said": " ".join(done.stderr.split())[-300:]}
        manifest = json.loads(runs[0].read_text())
        sums = hashlib.sha256()
        for path in sorted(runs[0].parent.glob("records/*.parquet")):
            table = pq.read_table(path)
            sums.update(json.dumps(table.to_pydict(), default=str).encode())
        stored = hashlib.sha256()
        for path in sorted(runs[0].parent.glob("adversarial/*.safetensors")):
            with safe_open(path, framework="numpy") as file:  # without the digest that binds the file to its run
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
                stored.update(save(arrays, {"stages": file.metadata()["stages"]}))
    return {
        "status": manifest["status"],
        "config_hash": manifest["config_hash"],
        "victim": manifest["victim"],
        "stages": " ".join(manifest["stages"]),
        "flags": " ".join(flag["name"] for flag in manifest["flags"]),
        "records": sums.hexdigest()[:16],
        "adversarial": stored.hexdigest()[:16],
    }


def main() -> int:
    """Digest a checkout, or compare two files of digests; exit with 1 where they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", action="store_true", help="two files of digests, not a checkout and a file")
    parser.add_argument("--only", default="", metavar="TEXT", help="commands that contain this text")
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    options = parser.parse_args()
    if options.compare:
        old, new = (json.loads(path.read_text()) for path in (options.first, options.second))
        differ = {key: [old.get(key), new[key]] for key in new if old.get(key) != new[key]}
        for key, (was, now) in differ.items():
            sys.stdout.write(f"{key}\n  {was}\n  {now}" + "\n")
        sys.stdout.write(
            f"{len(old)} runs, {sum('records' in it for it in old.values())} with records, {len(differ)} differ" + "\n"
        )
        return int(bool(differ))
    checkout = options.first.resolve()
    todo = [words for words in commands(checkout) if options.only in " ".join(words)]
    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(map(" ".join, todo), pool.map(lambda words: digest(checkout, words), todo), strict=True))
    options.second.write_text(json.dumps(found, indent=1) + "\n")
    sys.stdout.write(f"{len(found)} runs, {sum('records' in it for it in found.values())} with records" + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
