"""The one number of a run, as a list of runs shows it."""

from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.metrics import certificate_summary
from gauntlet.metrics.attack_summary import AttackSummary, summarize
from gauntlet.metrics.certificate_summary import CertificateSummary
from gauntlet.metrics.display import DASH, UNKNOWN, points, ratio
from gauntlet.metrics.perturbation_size import Spread, of_records


def attack_headline(run: RunFolder, manifest: Manifest, total: AttackSummary | None = None) -> str:
    """Return the robust accuracy of a run in percent, or its median distance where only the box limits.

    Args:
        run: whose chunks are all there.
        manifest: of it.
        total: the sums over its records; None: they are read.
    """
    total = total or summarize(run, manifest["stages"])
    if manifest["threat"]["radius"] is None:
        found = None if total.errors else Spread.of(of_records(run, manifest).distance)
        return f"d {found.quartiles()[1]}" if found else DASH
    if total.unknown:
        return UNKNOWN
    share = total.expected.mean if total.expected else ratio(total.robust + total.open, total.samples)
    return f"{'≤ ' * total.bounded}{points(share, 2)} %"


def certificate_headline(run: RunFolder, manifest: Manifest, total: CertificateSummary | None = None) -> str:
    """Return the accuracy that a run certifies at its eps in percent, or its average radius where it has no eps.

    Args:
        run: whose chunks are all there.
        manifest: of it.
        total: the sums over its records; None: they are read.
    """
    total, radius = total or certificate_summary.summary(run), manifest["threat"]["radius"]
    if radius is None or not total.samples:
        return f"r {total.average:.3g}"
    claimed = "claimed " * (manifest.get("certificate", {}).get("kind") == "claimed")
    return f"{claimed}{points(ratio(total.certified(float(radius)), total.samples), 2)} %"


def headline(run: RunFolder, manifest: Manifest) -> str:
    """Return the number of a run: from `run.json`, or from its records where a version before 0.2.0 ended it."""
    if "result" in manifest:
        return manifest["result"]
    return (certificate_headline if manifest["kind"] == "certificate" else attack_headline)(run, manifest)
