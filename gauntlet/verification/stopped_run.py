"""A run that ended before its last image: that it may end where it did, counted anew from its records."""

from collections.abc import Iterator
from dataclasses import replace

from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.jobs.attack_setup import AttackSetup
from gauntlet.jobs.certification_job import CertificationSetup
from gauntlet.jobs.stopping import Looks, cut, ended_early

NEAR = 1e-9
"""Rounding of an end of an interval."""


def early(
    job: AttackSetup | CertificationSetup, manifest: Manifest
) -> tuple[AttackSetup | CertificationSetup, list[str]]:
    """Return a job as its run stands, and what is wrong with where that says that it ended.

    Args:
        job: rebuilt, of all images.
        manifest: of the run.
    """
    facts = manifest.get("stop_when")
    asked = job.setup.request.enough
    if facts is None:
        return job, []
    if asked is None or isinstance(job, CertificationSetup):
        return job, ["run.json: it has stop_when, but its configuration does not ask to look"]
    problems = []
    if facts["of"] != len(job.split):
        problems.append(f"run.json: stop_when.of is {facts['of']}, the configuration chooses {len(job.split)} images")
    images = facts["images"]
    if images != len(job.split) and (images > len(job.split) or images % job.manifest["chunk"]):
        return job, [*problems, f"run.json: stop_when.images is {images}, where no chunk ends"]
    if ended_early(manifest):
        job = replace(job, manifest=job.manifest | cut(job.manifest, job.split.ids, images))
    return job, problems


def stop_problems(run: RunFolder, manifest: Manifest) -> Iterator[str]:
    """Yield a line where the records do not give the interval that ended the run, or gave one as narrow before."""
    facts = manifest.get("stop_when")
    if facts is None:
        return
    looks = Looks.of(run, manifest["stages"], facts["interval"])
    for chunk in range(manifest["chunks"]):
        if chunk and looks.enough():
            yield f"run.json: stop_when: after chunk {chunk - 1} the interval was narrow enough, yet the run went on"
        looks.took([chunk])
    low, high = looks.ends
    if abs(low - facts["low"]) > NEAR or abs(high - facts["high"]) > NEAR or looks.samples != facts["images"]:
        stated = f"{facts['low']:.6g} to {facts['high']:.6g}"
        yield f"run.json: stop_when says {stated}, the records give {low:.6g} to {high:.6g}"
    elif ended_early(manifest) and not looks.enough():
        yield f"run.json: stop_when: the interval is ±{(high - low) / 2:.3g}, ±{facts['interval']:g} was asked"
