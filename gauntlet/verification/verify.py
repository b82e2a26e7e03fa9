"""Check finished runs: `gauntlet verify RUN`.

The check reads the files, builds data, defense and threat anew from the recorded configuration, and compares what the
run claims with what that gives; on request it re-runs the attack, or the certifier, on some samples or on all. What it
finds goes to `verification.json`.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from gauntlet.errors import UserError, described, printable
from gauntlet.evidence.digest import adversarial_digest, manifest_digest, records_digest
from gauntlet.evidence.example_storage import StoragePolicy
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.recorded_command import shown_command
from gauntlet.evidence.run_folder import RunFolder, find_runs
from gauntlet.evidence.verdict import Verdict
from gauntlet.evidence.verdict_seal import key_path, sealed
from gauntlet.jobs.attack_setup import AttackSetup
from gauntlet.jobs.certification_job import CertificationSetup
from gauntlet.system.atomic_file import write_atomically
from gauntlet.system.handed_objects import handed
from gauntlet.system.provenance import now, versions
from gauntlet.verification.attack_evidence import check_rows_and_examples
from gauntlet.verification.certificate_evidence import check_certificates, replay_certificates
from gauntlet.verification.command_check import command_note
from gauntlet.verification.handed_in import objects
from gauntlet.verification.pack_format import opened_pack
from gauntlet.verification.packed_images import PackedImages
from gauntlet.verification.rebuild import HERE, Local, discrepancies, is_lone, rebuild
from gauntlet.verification.replay import replay_attack
from gauntlet.verification.report import SHOWN, Report, lines
from gauntlet.verification.sampling import DEFAULT, EVERYTHING, Amount, fresh_nonce
from gauntlet.verification.signature import signer
from gauntlet.verification.stopped_run import early, stop_problems
from gauntlet.verification.training_record import check_networks


def verify(
    run: RunFolder, local: Local = HERE, amount: Amount | None = None, nonce: str = "", retrain: bool = False
) -> Report:
    """Check one finished run.

    Args:
        local: what the one who verifies says of this machine.
        amount: of samples to re-run; None: none.
        nonce: hex digits that decide, with the digest of the records, which samples; empty: drawn now.
        retrain: whether networks that were trained here are trained again.

    Raises:
        UserError: the run is not finished, a file is damaged, or its data or weights are gone.
    """
    manifest = finished_manifest(run)
    given, remarks = objects(run, manifest, local.model, local.data)
    with handed(given):
        return _verified(run, manifest, local, amount, nonce, remarks, retrain)


def _verified(
    run: RunFolder,
    manifest: Manifest,
    local: Local,
    amount: Amount | None,
    nonce: str,
    remarks: list[str],
    retrain: bool,
) -> Report:
    job, stopped = early(rebuilt(run, manifest, local, amount is not None), manifest)
    report = Report(kind=manifest["kind"], keep=StoragePolicy.of_run(manifest))
    report.notes += remarks
    report.problems += stopped
    report.problems += discrepancies(run, manifest, job.manifest)
    if is_lone(run, job.manifest):
        report.notes.append("the folder was copied out of its runs folder; where it lies was not checked")
    if local.data is not None:
        report.notes.append("the images are those of the pack; that they are the data set's was not checked")
    report.notes += filter(None, [command_note(manifest, local.trust, local.env)])
    check_networks(report, job, retrain)
    nonce = nonce or fresh_nonce()
    if isinstance(job, AttackSetup):
        check_rows_and_examples(report, run, job, manifest)
        if not report.problems:
            report.problems += stop_problems(run, manifest)
        if amount is not None and _whole(run, job):
            replay_attack(report, run, job, manifest, amount, nonce)
    else:
        check_certificates(report, run, job, manifest)
        if amount is not None and _whole(run, job):
            replay_certificates(report, run, job, amount, nonce)
    return report


def finished_manifest(run: RunFolder) -> Manifest:
    """Return the manifest of a run. Raises UserError where it is of another kind, or not finished."""
    manifest = run.manifest()
    if manifest["kind"] not in ("attack", "certificate"):
        raise UserError(f"{run.path} holds a run of the kind {manifest['kind']}; attacks and certificates are verified")
    if manifest["status"] not in ("done", "failed"):
        raise UserError(f"{run.path} is not finished; run its command again to go on: {shown_command(manifest)}")
    return manifest


def rebuilt(run: RunFolder, manifest: Manifest, local: Local, fold: bool) -> AttackSetup | CertificationSetup:
    """Return the job of a run, built anew; whatever its configuration does to that is one line.

    fold: whether gradients come from BN-fused copies where those of the run did.
    """
    try:
        return rebuild(run, manifest, local, fold)
    except UserError as cause:
        raise UserError(f"{run.manifest_path}: {cause}") from cause
    except Exception as cause:  # whatever somebody else's configuration may do to what is built from it
        raise UserError(
            f"{run.manifest_path} cannot be used: its config cannot be built ({described(cause)}); run again"
        ) from cause


def _whole(run: RunFolder, job: AttackSetup | CertificationSetup) -> bool:
    """Return whether every chunk is there and can be read; where not, that is a problem already."""
    try:
        return {chunk for chunk in run.present() if run.read_part(chunk)} == set(range(job.manifest["chunks"]))
    except UserError:
        return False


def checked_verdict(
    run: RunFolder, local: Local, amount: Amount | None, nonce: str = "", retrain: bool = False
) -> tuple[Report, Verdict]:
    """Return what verifying a run found, and the verdict, bound to the files as they were before it."""
    try:
        digests = Verdict(
            records_digest=records_digest(run),
            manifest_digest=manifest_digest(run),
            adversarial_digest=adversarial_digest(run),
        )
    except OSError as cause:
        raise UserError(f"{run.path} cannot be read ({cause.strerror or cause}); check its files") from None
    report = verify(run, local, amount, nonce, retrain)
    done = report.replayed
    found = Verdict(
        verified=report.verified,
        partial=report.partial,
        level=report.level,
        checked=report.checked or report.samples,
        claimed=report.claimed,
        failed=len(report.problems),
        problems=report.problems[:SHOWN] or ([] if report.verified else [report.lack]),
        notes=report.notes[:SHOWN],
        time=now(),
        versions=versions(),
    )
    if done is not None:
        found |= Verdict(replayed=done.samples, total=done.total, nonce=done.nonce, chance=done.chance)
    return report, digests | found


def main(arguments: list[str] | None = None) -> int:
    """Verify each run below the given folders, and each pack; 0 = everything holds."""
    options = _parser().parse_args(arguments)
    try:
        amount = EVERYTHING if options.full else None if options.replay is None else Amount.of(options.replay)
        places = dict(placed(word) for word in options.set)
        local = Local(options.trust, options.env, places, model=options.model)
        packs = [path for path in options.folders if path.is_file()]
        runs = [run for path in options.folders if path not in packs for run in _runs_in(path)]
    except UserError as cause:
        sys.stderr.write(f"error: {printable(cause)}\n")
        return 1
    failures = 0
    for item in (*runs, *packs):
        try:
            if isinstance(item, RunFolder):
                failures += not _judged(item, local, amount, options.nonce, options.retrain)
            else:
                failures += not _judged_pack(item, local, amount, options)
        except UserError as cause:
            sys.stderr.write(f"error: {printable(cause)}\n")
            failures += 1
    return 1 if failures else 0


def _judged_pack(path: Path, local: Local, amount: Amount | None, options: argparse.Namespace) -> bool:
    """Verify a pack and print the verdict; it is stored nowhere, since a pack has no place on a board."""
    who = "" if options.signers is None else f"signed by {signer(path, options.signers)}: "
    with opened_pack(path) as pack:
        places = {key: str(pack.folder / place) for key, place in pack.content["places"].items()}
        if odd := [key for key in places if not key.endswith((".weights", ".path")) or key.startswith("dataset")]:
            raise UserError(f"{path} places {odd[0]}, which is none of weights and sets")
        own = any(key.startswith("dataset.") for key in local.places)
        data = None if own or "data" not in pack.content else PackedImages(pack)
        run = RunFolder(pack.run)
        there = replace(local, places=places | dict(local.places), data=data)
        report = verify(run, there, amount, options.nonce, options.retrain)
        for line in "\n".join(lines(run, report)).split("\n"):
            sys.stdout.write(f"{printable(line.replace(str(run.path), f'{who}{path}'))}\n")
    return report.verified


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gauntlet verify", description="Check finished runs.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="a run, a folder of runs, or a pack")
    parser.add_argument(
        "--replay", nargs="?", const=DEFAULT, metavar="N", help=f"re-run N samples, or a share such as 5%% ({DEFAULT})"
    )
    parser.add_argument("--full", action="store_true", help="re-run all samples")
    parser.add_argument(
        "--retrain", action="store_true", help="train networks again and compare their weights: as long as it took"
    )
    parser.add_argument("--nonce", default="", metavar="HEX", help="repeat an earlier choice of samples")
    parser.add_argument("--signers", type=Path, metavar="FILE", help="who may have signed a pack, for ssh-keygen")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="where something lies here: dataset.path, checkpoint, runs_dir, attack.path",
    )  # fmt: skip
    parser.add_argument("--trust", action="append", default=[], metavar="NAME", help="a package that runs may call")
    parser.add_argument("--env", action="append", default=[], metavar="NAME", help="a variable that runs may read")
    parser.add_argument("--model", metavar="FILE.py:FUNCTION", help="what makes the network of runs made in Python")
    return parser


def placed(word: str) -> tuple[str, str]:
    """Return key and value of KEY=VALUE. Raises UserError: it is none."""
    key, joined, value = word.partition("=")
    if not joined or not key:
        raise UserError(f"--set {word} is not KEY=VALUE; give for example --set dataset.path=DIR")
    return key, value


def _judged(run: RunFolder, local: Local, amount: Amount | None, nonce: str, retrain: bool) -> bool:
    """Verify a run, print the verdict, and leave it beside the run."""
    report, content = checked_verdict(run, local, amount, nonce, retrain)
    for line in "\n".join(lines(run, report)).split("\n"):
        sys.stdout.write(f"{printable(line)}\n")
    sys.stdout.flush()  # the verdict comes before what is said of its storage
    store(run, content)
    return report.verified


def store(run: RunFolder, verdict: Verdict) -> None:
    """Leave a verdict beside its run, sealed by this user. Raises UserError where the folder cannot be written."""
    content = sealed(verdict)
    try:
        write_atomically(run.path / "verification.json", (json.dumps(content, indent=1) + "\n").encode())
    except UserError as cause:
        here = "make that folder writable, or verify a copy of the runs folder"
        why = str(cause).replace("choose another place with runs_dir=DIR", here)
        raise UserError(f"the verdict is not stored: {why}") from cause
    if "seal" not in content:
        sys.stderr.write(
            printable(f"warning: no board will believe this verdict, since {key_path()} cannot be written; set ")
            + "XDG_STATE_HOME to a folder of yours and verify again\n"
        )


def _runs_in(folder: Path) -> list[RunFolder]:
    if not folder.is_dir():
        raise UserError(
            f"{folder} is not a folder; give a run folder such as runs/digits/linf-0.15/none/pgd/0123456789ab"
        )
    runs = find_runs(folder)
    if not runs:
        raise UserError(f"there is no run.json below {folder}; make a run first, for example: python run.py attack=pgd")
    return runs
