"""Pack the evidence of a run into one file that can be checked elsewhere: `gauntlet pack RUN`."""

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from gauntlet.certification.claimed import CLAIMS, Claimed
from gauntlet.data.given import FOLDER, GivenArrays, file_of
from gauntlet.data.shuffled import in_order
from gauntlet.errors import UserError, printable
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.jobs.attack_setup import AttackSetup
from gauntlet.jobs.certification_job import CertificationSetup
from gauntlet.system.handed_objects import handed
from gauntlet.training import weights_cache
from gauntlet.training.history import HISTORY
from gauntlet.training.loop import BEST
from gauntlet.training.trained_network import PART
from gauntlet.transfer.precomputed import PrecomputedTransfer
from gauntlet.verification.handed_in import objects
from gauntlet.verification.pack_format import PackContent, write_pack
from gauntlet.verification.packed_images import IMAGES, encoded_images, facts_of
from gauntlet.verification.rebuild import Local, place_of_run
from gauntlet.verification.signature import sign
from gauntlet.verification.verify import finished_manifest, rebuilt


def pack(run: RunFolder, out: Path, local: Local, *, weights: bool = True, images: bool = False) -> PackContent:
    """Write the pack of a finished run; return its pack.json without the list of files.

    Args:
        weights: whether networks that do not come with the program go along; else their digests alone.
        images: whether the images that were used go along.

    Raises:
        UserError: the run is not finished, or something that belongs to it is gone.
    """
    manifest = finished_manifest(run)
    given, _ = objects(run, manifest, local.model, local.data)
    with handed(given):
        return _packed(run, manifest, out, local, weights, images)


def _packed(run: RunFolder, manifest: Manifest, out: Path, local: Local, weights: bool, images: bool) -> PackContent:
    job = rebuilt(run, manifest, local, fold=False)
    place = place_of_run(job.manifest)
    inside = "/".join(["runs", *place])
    files: dict[str, Path | bytes] = {f"{inside}/run.json": run.manifest_path}
    for folder, kind in (("records", "parquet"), ("adversarial", "safetensors")):
        for path in sorted((run.path / folder).glob(f"part-*.{kind}")):
            files[f"{inside}/{folder}/{path.name}"] = path
    files |= {f"runs/{name}": path for name, path in _made_for(job, manifest, weights)}
    places: dict[str, str] = {}
    for number, (key, path) in enumerate(_named_files(job) if weights else ()):
        places[key] = f"weights/{number}{path.suffix}"
        files[places[key]] = path
    for key, path in _named_sets(job):
        places[key] = f"sets/{path.name}"
        files |= {f"{places[key]}/{each.name}": each for each in _set_files(path)}
    content = PackContent(
        version=1, place=place, command=manifest["command"], places=places, weights=manifest["weights"]
    )  # fmt: skip
    dataset = job.setup.dataset
    own = isinstance(dataset, GivenArrays) and file_of(job.setup.request.runs_dir / FOLDER, dataset.content)
    if images and own and own.is_file():  # of a Python caller: known by the digest of their content, which is checked
        files[f"runs/{FOLDER}/{own.name}"] = own
    elif images:
        files[IMAGES] = encoded_images(in_order(job.setup.split))
        content["data"] = facts_of(dataset)
    write_pack(out, files, content)
    return content


def _made_for(job: AttackSetup | CertificationSetup, manifest: Manifest, weights: bool) -> Iterator[tuple[str, Path]]:
    """Yield what was trained, fitted or crafted for a run: name below the runs folder, and file."""
    above = job.setup.request.runs_dir
    for folder in dict.fromkeys(_training_folders(job)) if weights else ():
        for name in (BEST, PART, HISTORY):
            if (folder / name).is_file():
                yield f"_trained/{folder.name}/{name}", folder / name
    for fit in manifest.get("fit", {}).values():
        name = Path(str(fit.get("file", ""))).name
        if name and (above / "_universal" / name).is_file():
            yield f"_universal/{name}", above / "_universal" / name
    certifier = job.work.certifier[1] if isinstance(job, CertificationSetup) else None
    if isinstance(certifier, Claimed):
        yield f"{CLAIMS}/{Path(str(certifier.path)).name}", Path(str(certifier.path))
    for crafter in job.crafters if isinstance(job, AttackSetup) else ():
        for path in _set_files(crafter.to.path):
            yield f"_sets/{crafter.to.path.name}/{path.name}", path


def _training_folders(job: AttackSetup | CertificationSetup) -> Iterator[Path]:
    """Yield the folder of every training whose weights do not come with the program."""
    dataset, cache = job.setup.dataset, job.setup.request.runs_dir / "_trained"
    crafters = job.crafters if isinstance(job, AttackSetup) else ()
    sources = [one.model.defense for crafter in crafters for one in crafter.craft.surrogates]
    for defense in (job.setup.target.defense, *sources):
        models: dict[str, Any] = {}
        for name, part in defense.parts.items():
            given = {other: models[other] for other in part.uses}
            models[name] = part.load(dataset, cache, given=given, train=False).module
            for _, member, data in part.members(dataset):
                if member.weights is None and weights_cache.find(key := member.key(data, given)) is None:
                    yield member.folder(data, cache, key)


def _named_files(job: AttackSetup | CertificationSetup) -> Iterator[tuple[str, Path]]:
    """Yield the files of weights that the configuration names: key, file."""
    config: Any = OmegaConf.to_container(job.setup.request.cfg)
    owners = {"defense": config["defense"]}
    owners |= {f"surrogates.{name}": node for name, node in (config.get("surrogates") or {}).items()}
    for owner, node in owners.items():
        for name, part in (node.get("parts") or {}).items():
            value = part.get("weights") if isinstance(part, Mapping) else None
            if value not in (None, "included"):
                yield f"{owner}.parts.{name}.weights", Path(str(value)).expanduser()


def _named_sets(job: AttackSetup | CertificationSetup) -> Iterator[tuple[str, Path]]:
    """Yield the adversarial sets that the configuration names: key, folder."""
    suite = job.evaluation.attack[1] if isinstance(job, AttackSetup) else None
    if not isinstance(suite, PrecomputedTransfer) or (isinstance(job, AttackSetup) and job.crafters):
        return
    config: Any = OmegaConf.to_container(job.setup.request.cfg.attack)
    nodes = {f"attack.stages.{name}": node for name, node in (config.get("stages") or {}).items()} or {"attack": config}
    yield from ((f"{key}.path", Path(str(node["path"]))) for key, node in nodes.items())


def _set_files(folder: Path) -> Iterator[Path]:
    for path in (folder / "set.json", *sorted(folder.glob("part-*.safetensors"))):
        if not path.is_file():
            raise UserError(f"{path} is gone; run the command of the run again, then pack it")
        yield path


def main(arguments: list[str] | None = None) -> int:
    """Pack a run; return the exit status."""
    parser = argparse.ArgumentParser(prog="gauntlet pack", description="Pack a run into one file to check elsewhere.")
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the pack (default: <attack>-<hash>.gauntlet.zip)")
    parser.add_argument("--no-weights", action="store_true", help="leave weights out; their digests stay")
    parser.add_argument("--images", action="store_true", help="add the images, where their license allows it")
    parser.add_argument("--sign", type=Path, metavar="KEY", help="sign with this key of ssh-keygen")
    parser.add_argument("--trust", action="append", default=[], metavar="NAME", help="a package that the run may call")
    parser.add_argument("--env", action="append", default=[], metavar="NAME", help="a variable that the run may read")
    parser.add_argument("--model", metavar="FILE.py:FUNCTION", help="what makes the network of runs made in Python")
    options = parser.parse_args(arguments)
    run = RunFolder(options.run)
    try:
        out = options.out or Path(f"{run.path.resolve().parent.name}-{run.path.resolve().name}.gauntlet.zip")
        local = Local(options.trust, options.env, model=options.model)
        pack(run, out, local, weights=not options.no_weights, images=options.images)
        signed = f", signature {sign(out, options.sign)}" if options.sign else ""
    except UserError as cause:
        sys.stderr.write(f"error: {printable(cause)}\n")
        return 1
    sys.stdout.write(printable(f"packed: {out} ({out.stat().st_size / 1e6:.1f} MB){signed}") + "\n")
    return 0
