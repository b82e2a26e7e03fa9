"""What a million images cost by attack: CPU seconds at two numbers of images, their slope, and one larger run beside.

    python -m benchmarks.million_cost [--only NAME] [--check 100000] [--folder DIR] [--shared ../shared]

The network, threat and images are those of `benchmarks.million`: the public network `at_resnet2b` over `cifar10_jpeg`,
repeated into rows with ids of their own, linf 2/255, one thread. The slope leaves out the start of a process. The check
is one more run of the cheapest attack over many more images, held against what the slope says of it.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.million import Costs, command, run, write_images
from gauntlet.evidence.run_folder import find_runs

ATTACKS = {
    "fgsm": (["attack=fgsm"], 2000, 20_000),
    "pgd, 5 steps": (["attack=pgd", "attack.steps=5", "attack.step_size=0.25"], 1000, 8000),
    "pgd, 20 steps": (["attack=pgd", "attack.steps=20"], 500, 3000),
    "pma": (["attack=pma"], 200, 600),
    "gauntlet": (["attack=gauntlet"], 200, 600),
}
"""Name -> words of the command, and two numbers of images, the more the cheaper it is: a start costs some seconds."""

MILLION = 1_000_000


def place(name: str, images: int) -> str:
    """Return the folder of the runs of an attack over so many images."""
    return f"{name.replace(', ', '-').replace(' ', '-')}-{images}"


def words(options: argparse.Namespace, name: str, images: int) -> list[str]:
    """Return the command of an evaluation of the first images."""
    plain = [word for word in command(options, place(name, images)) if not word.startswith("attack")]
    return [*plain, *ATTACKS[name][0], f"dataset.limit={images}"]


def measured(options: argparse.Namespace, name: str, images: int) -> Costs:
    """Run an attack over so many images; return CPU seconds, passes an image, and the share that is left."""
    cost = run(words(options, name, images), options)
    if cost["status"]:
        sys.exit(f"{name} ended with status {cost['status']:.0f}; see {options.folder}/log.txt")
    (found,) = find_runs(options.folder / place(name, images))
    manifest = found.manifest()
    passes = sum(stage["forwards"] + stage["backwards"] for stage in manifest["cost"].values())
    options.left[name] = manifest["result"]
    return cost | {"passes": passes / images}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=ATTACKS, action="append")
    parser.add_argument("--check", type=int, default=100_000, help="images of the run that the slope is held against")
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--folder", type=Path, default=None, help="default: a folder that is deleted afterwards")
    options = parser.parse_args()
    options.shared = options.shared.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        options.folder = options.folder or Path(scratch)
        options.folder.mkdir(parents=True, exist_ok=True)
        source = options.shared / "data" / "cifar10_jpeg" / "test.parquet"
        write_images(source, options.folder / "images", max(options.check, 20_000))
        report(options)


def report(options: argparse.Namespace) -> None:
    """Measure each attack and print its row as it is there."""
    options.left = {}
    columns = ("attack", "images", "passes an image", "left", "images a CPU second", "CPU hours a million")
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns), flush=True)  # noqa: T201
    slopes, starts = {}, {}
    for name in options.only or ATTACKS:
        _, less, more = ATTACKS[name]
        few, many = (measured(options, name, count) for count in (less, more))
        slopes[name] = (many["cpu"] - few["cpu"]) / (more - less)
        starts[name] = few["cpu"] - slopes[name] * less
        row = (
            name, f"{less:,} and {more:,}", f"{many['passes']:.1f}", options.left[name], f"{1 / slopes[name]:,.0f}",
            f"{slopes[name] * MILLION / 3600:.2f}",
        )  # fmt: skip
        print("| " + " | ".join(row) + " |", flush=True)  # noqa: T201
    if options.check:
        name = next(iter(slopes))
        seen = measured(options, name, options.check)
        foretold = starts[name] + slopes[name] * options.check
        print(  # noqa: T201
            f"\n{name} over {options.check:,} images: {seen['cpu']:.0f} CPU s, {seen['cpu'] / foretold:.2f} of the "
            f"{foretold:.0f} that the slope says; at most {seen['mb']:.0f} MB"
        )


if __name__ == "__main__":
    main()
