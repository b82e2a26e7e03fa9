"""One evaluation of a million images in shards whose processes are killed: speed, memory, bytes, and the board.

    python -m benchmarks.million [--images 1000000] [--shards 16] [--kills 20] [--folder DIR] [--shared ../shared]

PGD-5 on the public network `at_resnet2b` over `cifar10_jpeg`, whose 10,000 test images are repeated into Parquet files
of 100,000 rows, each row with an id of its own. One worker process at a time, with one thread; each kill is a SIGKILL
once the process has spent a random number of CPU seconds, whereupon the same shard is started again. Then the records
are checked, those of the first 20,000 images against those of an undisturbed process without shards, and the board is
built. The system tells what a process has cost when it ends. What is done is kept in DIR: the same command goes on.
"""

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
CHUNK = 1000
FILE = 100_000
SAMPLE = 20_000
"""Images of the bare loop, and of the undisturbed run that the records are compared with."""

Costs = dict[str, float]


class State:
    """What has been measured, on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def put(self, **values: Any) -> None:
        self.values |= values
        scratch = self.path.with_suffix(".tmp")
        scratch.write_text(json.dumps(self.values, indent=1))
        scratch.replace(self.path)


def write_images(source: Path, folder: Path, images: int) -> None:
    """Parquet files of at most `FILE` rows in row groups of `CHUNK`."""
    table = pq.read_table(source)
    folder.mkdir(parents=True, exist_ok=True)
    for number, first in enumerate(range(0, images, FILE)):
        path = folder / f"test-{number:03d}.parquet"
        if path.exists():
            continue
        scratch = path.with_suffix(".tmp")
        with pq.ParquetWriter(scratch, table.schema, compression="zstd") as writer:
            for start in range(first, min(first + FILE, images), len(table)):
                writer.write_table(table.slice(0, min(len(table), images - start)), row_group_size=CHUNK)
        scratch.replace(path)


def command(options: argparse.Namespace, runs: str, *more: str) -> list[str]:
    """An evaluation of these images."""
    return [
        sys.executable, "run.py", "attack=pgd", "attack.steps=5", "dataset=parquet", "dataset.name=cifar10_jpeg",
        f"dataset.path={options.folder}/images", "model._target_=networks.load", "+model.name=at_resnet2b",
        "~model.classes", "~model.channels", "~model.size", "~model.width", "checkpoint=included",
        "trusted_packages=[networks]", "threat.eps=2/255", f"runtime.chunk={CHUNK}", "runtime.keep=first 1000",
        "runtime.progress=false", f"runs_dir={options.folder}/{runs}", *more,
    ]  # fmt: skip


def run(words: list[str], options: argparse.Namespace, kill_at: float | None = None) -> Costs:
    """Run a process and return what it cost; `kill_at`: its CPU seconds at which it gets SIGKILL."""
    paths = os.pathsep.join([str(ROOT), f"{options.shared}/models", os.environ.get("PYTHONPATH", "")])
    with (options.folder / "log.txt").open("a") as log:
        process = subprocess.Popen(words, cwd=ROOT, stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": paths})
        if kill_at is not None:
            while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
                if _spent(process.pid) >= kill_at:
                    process.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.05)
        _, status, usage = os.wait4(process.pid, 0)
    return {
        "status": os.waitstatus_to_exitcode(status),
        "cpu": usage.ru_utime + usage.ru_stime,
        "mb": usage.ru_maxrss / 1024,
    }


def _spent(pid: int) -> float:
    """CPU seconds of a process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bare(folder: Path, images: int) -> None:
    """What a loop without evidence costs: read, decode, attack, judge. Prints images per CPU second and passes."""
    import io

    import numpy as np
    import torch
    from PIL import Image

    import gauntlet  # noqa: F401  (the same settings of the process)
    from benchmarks.public import network_of

    torch.set_num_threads(1)
    network, eps = network_of("at_resnet2b"), 2 / 255
    draws = torch.Generator().manual_seed(0)
    begun, seen, passes, robust = time.process_time(), 0, 0, 0
    for path in sorted(folder.glob("test-*.parquet")):
        for block in pq.ParquetFile(path).iter_batches(256, columns=["image", "label"]):
            if seen >= images:
                break
            encoded = [row["bytes"] for row in block.column("image").to_pylist()]
            pixels = np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in encoded])
            x = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()).float().div_(255)
            y = torch.tensor(block.column("label").to_pylist())
            with torch.no_grad():
                right = network(x).argmax(1) == y
            x, y = x[right], y[right]
            seen, passes = seen + len(right), passes + len(right)
            z = (x + eps * (2 * torch.rand(x.shape, generator=draws) - 1)).clamp(0, 1)
            for _ in range(5):
                leaf = z.requires_grad_()
                scores = network(leaf)
                (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(scores, y, reduction="sum"), leaf)
                passes += 2 * len(y)
                standing = scores.argmax(1) == y
                x, y, z, gradient = x[standing], y[standing], z.detach()[standing], gradient[standing]
                z = (z + eps / 4 * gradient.sign()).clamp(x - eps, x + eps).clamp(0, 1)
            with torch.no_grad():
                robust += int((network(z).argmax(1) == y).sum())
            passes += len(y) + int(right.sum())  # those that fell had their verdict in the loop; all are judged afresh
            with torch.no_grad():
                network(torch.cat([z, z[:1].expand(int(right.sum()) - len(y), *z.shape[1:])]))
    spent = time.process_time() - begun
    print(json.dumps({"images": seen, "rate": seen / spent, "passes": passes / seen, "robust": robust / seen}))  # noqa: T201


def shards(options: argparse.Namespace, state: State) -> None:
    """Every shard to its end, killed at random moments on the way."""
    draws = random.Random(options.seed)
    kills = [draws.randrange(options.shards) for _ in range(options.kills)]
    moments = {
        shard: [draws.uniform(1, options.longest) for _ in range(kills.count(shard))] for shard in range(options.shards)
    }
    done: list[int] = state.values.setdefault("done", [])
    costs: list[Costs] = state.values.setdefault("costs", [])
    for shard in [shard for shard in range(options.shards) if shard not in done][: options.most]:
        words = command(options, "runs", f"runtime.shards={options.shards}", f"runtime.shard={shard}")
        status = -signal.SIGKILL
        while status == -signal.SIGKILL:
            cost = run(words, options, moments[shard].pop(0) if moments[shard] else None) | {"shard": shard}
            costs.append(cost)
            state.put(costs=costs)
            status = int(cost["status"])
        if status:
            sys.exit(f"shard {shard} ended with status {status}; see {options.folder}/log.txt")
        done.append(shard)
        state.put(done=done)
        print(f"shard {shard}: {_line(costs, shard)}", flush=True)  # noqa: T201


def _line(costs: list[Costs], shard: int) -> str:
    mine = [cost for cost in costs if cost["shard"] == shard]
    return f"{sum(c['cpu'] for c in mine):.0f} CPU s, {len(mine) - 1} kills, {max(c['mb'] for c in mine):.0f} MB"


def check(options: argparse.Namespace, state: State) -> None:
    """Count the records, and compare the first with those of an undisturbed run."""
    from gauntlet.evidence.run_folder import find_runs
    from gauntlet.evidence.schema import CLEAN_STAGE

    few = min(SAMPLE, options.images)
    alone = command(options, "alone", f"dataset.limit={few}")
    state.put(alone=run(alone, options))
    (whole,), (part,) = (find_runs(options.folder / name) for name in ("runs", "alone"))
    rows, size, wrong = 0, 0, 0
    for chunk in sorted(whole.present()):
        table = whole.read_part(chunk)
        rows, size = rows + len(table), size + whole.part_path(chunk).stat().st_size
        clean = sorted(
            table["sample"].filter([stage == CLEAN_STAGE for stage in table["stage"].to_pylist()]).to_pylist()
        )
        wrong += clean != list(range(chunk * CHUNK, min((chunk + 1) * CHUNK, options.images)))
    both = whole.present() & part.present()
    same = sum(whole.read_part(chunk).equals(part.read_part(chunk)) for chunk in both)
    state.put(
        status=whole.manifest()["status"], parts=len(whole.present()), rows=rows, bytes=size, wrong_parts=wrong,
        same=f"{same} of {len(both)}",
        left=[str(path.relative_to(whole.path)) for path in whole.path.rglob("*.damaged")],
    )  # fmt: skip


def report(options: argparse.Namespace, values: dict[str, Any]) -> str:
    """The measurements as a table."""
    costs, images = values["costs"], min(options.images, values["parts"] * CHUNK)
    done, killed = ([c for c in costs if (c["status"] == 0) == kind] for kind in (True, False))
    useful, lost = (sum(c["cpu"] for c in each) for each in (done, killed))
    idle, board, bare_rate = values["idle"]["cpu"], values["board"], values["bare"]["rate"]
    rate, alone = images / (useful + lost), min(SAMPLE, images) / values["alone"]["cpu"]
    peaks = [c["mb"] for c in done]
    lines = [
        ("images; shards done; chunks", f"{images:,}; {len(values['done'])} of {options.shards}; {values['parts']:,}"),
        ("processes; of these ended by SIGKILL", f"{len(costs)}; {len(killed)}"),
        ("CPU seconds in all; of killed processes", f"{useful + lost:.0f}; {lost:.0f}"),
        (
            "images a CPU second: all shards, starts and kills counted",
            f"{rate:.0f}, {rate / bare_rate:.2f} of the bare loop",
        ),
        (
            "images a CPU second: undisturbed, no shards, start counted",
            f"{alone:.0f}, {alone / bare_rate:.2f} of the bare loop",
        ),
        (
            "images a CPU second: bare loop, start left out",
            f"{bare_rate:.0f}; {values['bare']['passes']:.2f} passes an image",
        ),
        ("CPU seconds of a shard given again at the end", f"{idle:.1f}"),
        ("peak resident memory of a worker", f"{min(peaks):.0f} to {max(peaks):.0f} MB"),
        ("rows; bytes an image; bytes a row", "{rows:,}; {0:.1f}; {1:.1f}"),
        ("parts that do not hold exactly their samples", f"{values['wrong_parts']}"),
        ("parts equal to those of the undisturbed process", values["same"]),
        ("board", f"{board['cpu']:.1f} CPU s, {board['mb']:.0f} MB; of no run {values['blank']['mb']:.0f} MB"),
    ]
    lines[8] = (lines[8][0], lines[8][1].format(values["bytes"] / images, values["bytes"] / values["rows"], **values))
    head = (
        f"Python {platform.python_version()}, {os.cpu_count()} cores, status {values['status']}\n\n| | |\n|---|---|\n"
    )
    return head + "".join(f"| {name} | {value} |\n" for name, value in lines)


def measure(options: argparse.Namespace, state: State) -> None:
    """All that is measured once the shards are done, or with what is there of them."""
    first = state.values["done"][0]
    again = command(options, "runs", f"runtime.shards={options.shards}", f"runtime.shard={first}")
    state.put(idle=run(again, options))
    check(options, state)
    words = [sys.executable, "-m", "benchmarks.million", "--folder", str(options.folder), "--bare", str(SAMPLE)]
    env = os.environ | {"GAUNTLET_SHARED": str(options.shared)}
    state.put(bare=json.loads(subprocess.run(words, cwd=ROOT, env=env, check=True, stdout=subprocess.PIPE).stdout))
    (options.folder / "nothing").mkdir(exist_ok=True)
    for name, runs in (("blank", "nothing"), ("board", "runs")):
        words = ["--runs", str(options.folder / runs), "--out", str(options.folder / f"site-{name}")]
        state.put(**{name: run([sys.executable, "-m", "leaderboard", *words], options)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument(
        "--longest", type=float, default=35.0, help="CPU seconds after which a kill comes at the latest"
    )
    parser.add_argument("--most", type=int, default=None, help="shards to do in this call; default: all")
    parser.add_argument("--now", action="store_true", help="measure what is there, though shards are left")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--folder", type=Path, default=None, help="default: a folder of the system for temporary files")
    parser.add_argument("--bare", type=int, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.shared = options.shared.resolve()
    options.folder = options.folder or Path(tempfile.gettempdir()) / f"gauntlet-million-{options.images}"
    if options.bare:
        bare(options.folder / "images", options.bare)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    state = State(options.folder / "state.json")
    write_images(options.shared / "data" / "cifar10_jpeg" / "test.parquet", options.folder / "images", options.images)
    shards(options, state)
    left = options.shards - len(state.values["done"])
    if left and not options.now:
        sys.exit(f"{left} shards are left; the same command goes on, --now measures what is there")
    if state.values.get("measured") != left:
        measure(options, state)
        state.put(measured=left)
    print(report(options, state.values))  # noqa: T201


if __name__ == "__main__":
    main()
