"""`gauntlet import x_adv.pt --for RUN`: judge adversarial examples from elsewhere, as a run of its own."""

import argparse
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from gauntlet.commands.attack_report import lines
from gauntlet.errors import UserError, printable
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.evidence.stable_names import from_record
from gauntlet.jobs.attack_job import Outcome, evaluate
from gauntlet.jobs.attack_setup import AttackSetup
from gauntlet.system.handed_objects import handed
from gauntlet.transfer.imported import ForeignExamples, import_set
from gauntlet.verification.handed_in import objects
from gauntlet.verification.rebuild import HERE, Local, rebuild


def import_examples(
    file: Path,
    run: RunFolder,
    *,
    ids: Path | None = None,
    origin: str | None = None,
    local: Local = HERE,
    command: str = "",
) -> tuple[Outcome, tuple[str, ...]]:
    """Judge the examples of a file against the victim of a run; return the new run, and remarks on the file.

    Each row is checked against the threat and predicted anew. What is outside is recorded as an error.

    Args:
        file: .pt, .npy, .npz or .safetensors, of the size of the run's images or with ids.
        run: an attack run, whose defense, data, threat and protocol count.
        ids: a file of sample ids.
        origin: where the examples come from, in words; None: the name of the file.
        local: what is trusted, and lies elsewhere, on this machine.
        command: as it can be pasted.

    Raises:
        UserError: the file does not fit, or the run cannot be rebuilt.
    """
    manifest = run.manifest()
    if manifest["kind"] != "attack":
        raise UserError(f"{run.path} holds a run of the kind {manifest['kind']}; name an attack run of the same model")
    given, _ = objects(run, manifest, local.model)
    with handed(given):
        job = rebuild(run, manifest, local)
        assert isinstance(job, AttackSetup)
        asked, form = job.setup.request, tuple(job.split.read(slice(0, 1)).x.shape[1:])
        examples = ForeignExamples.read(file, ids, form)
        words = printable(origin or file.name)
        folder = import_set(asked.runs_dir / "_sets", examples, job.split, asked.threat, words)
        cfg: Any = OmegaConf.create(from_record(asked.recorded))  # values of the environment as they were typed
        cfg.attack = {"_target_": "gauntlet.transfer.precomputed.Stored", "path": str(folder)}
        cfg.surrogates, cfg.heads, cfg.access, cfg.draws = {}, "declared", "gradient", None
        cfg.runtime.keep = "broken"
        names = dict(asked.choices) | {"attack": re.sub(r"[^\w.+-]+", "_", f"imported-{file.stem}").strip("._")}
        return evaluate(cfg, names, command), examples.remarks


def main(arguments: list[str] | None = None) -> int:
    """Judge a file; 0 = every row is inside the threat."""
    parser = argparse.ArgumentParser(prog="gauntlet import", description="Judge adversarial examples from elsewhere.")
    parser.add_argument("file", type=Path, help=".pt, .npy, .npz or .safetensors with x_adv, and ids where not all")
    parser.add_argument("--for", dest="run", type=Path, required=True, metavar="RUN", help="folder of an attack run")
    parser.add_argument(
        "--ids", type=Path, metavar="FILE", help="sample ids of the rows, where not every image has one"
    )
    parser.add_argument("--origin", metavar="TEXT", help="where they come from (default: the name of the file)")
    parser.add_argument("--trust", action="append", default=[], metavar="NAME", help="a package that the run may call")
    parser.add_argument("--env", action="append", default=[], metavar="NAME", help="a variable that the run may read")
    parser.add_argument("--model", metavar="FILE.py:FUNCTION", help="what makes the network of a run made in Python")
    words = list(sys.argv[2:] if arguments is None else arguments)
    options = parser.parse_args(arguments)
    try:
        outcome, remarks = import_examples(
            options.file, RunFolder(options.run), ids=options.ids, origin=options.origin,
            local=Local(options.trust, options.env, model=options.model),
            command=shlex.join(["gauntlet", "import", *words]),
        )  # fmt: skip
    except UserError as cause:
        sys.stderr.write(f"error: {printable(cause)}\n")
        return 1
    sys.stdout.write("\n".join([*lines(outcome), *remarks]) + "\n")
    return int(outcome.manifest["status"] != "done")
