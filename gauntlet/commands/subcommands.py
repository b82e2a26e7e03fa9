"""The subcommands of `gauntlet`: where each is, and one line about it. Imports nothing of them."""

from typing import NamedTuple


class Command(NamedTuple):
    """A subcommand: the module whose `main(words)` it calls, and one line about it."""

    module: str
    about: str


COMMANDS = {
    "run": Command("gauntlet.commands.run", "evaluate a defense by an attack or a certifier (python run.py)"),
    "train": Command("gauntlet.commands.train", "train a network by a recipe (python train.py)"),
    "board": Command("gauntlet.commands.board", "build the leaderboard from the evidence"),
    "verify": Command("gauntlet.verification.verify", "check runs and packs; re-run some of their samples"),
    "pack": Command("gauntlet.verification.pack", "put a run into one file that others can verify"),
    "status": Command("gauntlet.commands.status", "list runs and sweep jobs: done, running, failed, interrupted"),
    "import": Command("gauntlet.commands.import_results", "judge adversarial examples, or verdicts, from elsewhere"),
    "export": Command("gauntlet.commands.export_examples", "write a run's adversarial set, or its network as ONNX"),
    "curves": Command("gauntlet.commands.curves", "print robust accuracy at every eps, from unbounded runs"),
    "corruptions": Command("gauntlet.commands.corruptions", "print errors on corrupted images, their means, and mCE"),
    "queries": Command("gauntlet.commands.queries", "print success against queries, from black-box runs"),
    "transfer": Command("gauntlet.commands.transfer_matrix", "print transfer rates, sources against targets"),
    "compare": Command("gauntlet.commands.compare", "compare entries on the same samples: tests, intervals, overlap"),
    "report": Command("gauntlet.commands.report", "write a report for an auditor, and check requirements"),
    "plot": Command("gauntlet.commands.plot", "draw figures for papers: PDF, SVG, PNG"),
    "table": Command("gauntlet.commands.table", "print tables for papers: LaTeX, Markdown, Typst, CSV"),
    "cite": Command("gauntlet.commands.cite", "print the BibTeX entries of every method that runs use"),
    "rankings": Command("gauntlet.commands.rankings", "rank systems across data sets and threats, by several rules"),
    "sync": Command("gauntlet.commands.wandb_sync", "send runs that were kept offline to Weights & Biases"),
    "audit": Command("gauntlet.commands.certification_log", "audit a public certification log, or write one"),
    "calibrate ensemble": Command("gauntlet.commands.calibrate_ensemble", "find the probabilities of a mixture"),
    "calibrate mixednuts": Command("gauntlet.commands.calibrate_mixednuts", "find the parameters of MixedNUTS"),
    "study powerlaw": Command("gauntlet.commands.power_law", "fit the power law of small perturbations to runs"),
    "study correlation": Command(
        "gauntlet.commands.correlation", "print rank correlations of cheap and costly measures"
    ),
    "study longrange": Command(
        "gauntlet.commands.long_range", "print robust accuracy to large eps, and what is spurious"
    ),
    "study lid": Command(
        "gauntlet.commands.intrinsic_dimension", "find images of unusual local intrinsic dimension, as CC1M's filter"
    ),
    "ship": Command("gauntlet.commands.ship_weights", "add the weights of a training to the shipped ones"),
    "completion": Command("gauntlet.commands.completion", "print the completion of bash or zsh"),
}
"""Name as it is typed -> subcommand."""
