"""What the command line says of a run that certifies."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from gauntlet.commands.network_report import network_lines
from gauntlet.errors import printable
from gauntlet.jobs.certification_job import Certified
from gauntlet.metrics.bracket import of_survivors
from gauntlet.metrics.certificate_summary import CertificateSummary, grid
from gauntlet.metrics.vote_shares import concentration

KINDS = {
    "sound_prob": "each certificate fails with probability at most {:.3g}, whatever the network",
    "sound_det": "each certificate is a proof",
    "estimate": "ESTIMATES: no confidence stands behind these radii, and no table of certificates counts them",
}


def certificate_lines(outcome: Certified) -> list[str]:
    """Return the report of a run."""
    manifest, total = outcome.manifest, outcome.summary
    name, threat = manifest["name"], manifest["threat"]
    headline = [name["defense"], manifest["dataset"]["name"], f"{threat['norm']} {threat['eps']}", name["certifier"]]
    out = ["", " · ".join(headline), *network_lines(manifest)]
    if total.samples and of_survivors(manifest):
        out.append("these are the survivors of an attack: the shares below are of them, not of the data set")
    if total.samples:
        facts = manifest["certificate"]
        if facts["kind"] == "claimed":
            out += _claimed(total, threat["radius"] or math.inf, facts["origin"])
        else:
            out += [
                *_numbers(total, threat["radius"], threat["norm"], _asked(manifest)),
                *_of_maps(manifest),
                KINDS[facts["kind"]].format(1 - total.confidence),
            ]
    out += [f"not counted: {count} samples with error: {text}" for text, count in total.errors.items()]
    if manifest["status"] == "running":
        out.append(
            f"{len(outcome.run.present())} of {manifest['chunks']} chunks are there; the other shards have the rest"
        )
    out.append(f"evidence: {outcome.run.path}")
    return out


def _claimed(total: CertificateSummary, eps: float, origin: str) -> list[str]:
    share = total.certified(eps) / total.samples
    least = [f"least margin     {total.margin:7.4g}   of those claimed"] if math.isfinite(total.margin) else []
    return [
        f"claimed at {eps:<7.4g} {share:7.2%}   claimed by {printable(origin)}, not checked by us: no table or "
        "bracket counts it",
        *least,
    ]


def _asked(manifest: Mapping[str, Any]) -> list[float]:
    """Return the radii that rule=grid was given; empty elsewhere."""
    certifier = manifest["config"]["certifier"]
    return sorted(certifier.get("radii") or []) if certifier.get("rule") == "grid" else []


def _of_maps(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is certified where that is an attribution."""
    if manifest["threat"]["norm"] == "attribution":
        node = manifest["config"]["certifier"]
        yield (
            f"what is certified: that the attribution ({node['method']}) of the class keeps a cosine of "
            f"{node['cosine']:g}; overlap is of the {node['top']} most important pixels, both in an l2 ball"
        )


def _numbers(total: CertificateSummary, eps: float | None, norm: str, asked: list[float]) -> Iterator[str]:
    n = total.samples
    if total.graded:
        counts = (
            ("accuracy", total.correct, total.interval(0.0)),
            ("abstained", total.abstained, total.abstained_interval),
        )
        for word, count, (low, high) in counts:
            yield f"{word:<16} {count / n:7.2%}   95 % interval {low:.2%} to {high:.2%} ({count} of {n})"
    if eps is not None:
        yield _certified(total, eps)
    if total.graded:
        yield from _curve(total, asked or grid(float(total.radius.max(initial=0.0)), norm))
    elif math.isfinite(total.margin):
        yield f"least margin     {total.margin:7.4g}   of those certified"
    if total.attribution is not None:
        yield from (f"attributions     {line}" for line in total.attribution.lines())
    seconds = max(total.seconds, 1e-9)
    if total.bounded:
        yield f"cost             {seconds / n:.3g} s per image; one forward of the deployed network, the rest is bounds"
        return
    drawn = f"{total.samples_used / n:,.0f} draws and " if total.samples_used else ""
    rate = f"{total.samples_used / seconds:,.0f} draws/s, " if total.samples_used else ""
    yield (
        f"cost             {drawn}{total.forwards / n:,.0f} forwards per image, {seconds / n:.3g} s; "
        f"{rate}{total.forwards / seconds:,.0f} forwards/s"
    )


def _certified(total: CertificateSummary, radius: float) -> str:
    low, high = total.interval(radius)
    share = total.certified(radius) / total.samples
    sure = "" if total.confidence == 1 else f"; on these images at least {total.surely(radius):.2%}, sure to 99.9 %"
    return f"certified at {radius:<4.4g} {share:7.2%}   95 % interval {low:.2%} to {high:.2%}{sure}"


def _curve(total: CertificateSummary, radii: list[float]) -> Iterator[str]:
    heads = [f"{radius:.4g}" for radius in radii]
    width = max(8, *(len(head) + 2 for head in heads))
    yield "radius          " + "".join(f"{head:>{width}}" for head in heads)
    yield "certified       " + "".join(f"{total.certified(radius) / total.samples:>{width}.2%}" for radius in radii)
    ends = [total.interval(radius) for radius in radii]
    for end, word in enumerate(("95 % from", "95 % to")):
        yield f"{word:<16}" + "".join(f"{each[end]:>{width}.2%}" for each in ends)
    drawn = f"; at most {total.trials:,} draws per bound" if total.samples_used else ""
    low, high = total.average_interval
    yield f"average radius   {total.average:7.4g}   95 % interval {low:.4g} to {high:.4g} (zero where wrong{drawn})"
    if total.votes is not None and total.correct:
        share = f"a tenth of the images makes {concentration(total.radius):.0%} of the average radius"
        bins = total.votes.histogram()
        wide = max(8, *(len(word) + 2 for word, _ in bins))
        yield "votes p_A       " + "".join(f"{word:>{wide}}" for word, _ in bins)
        yield "images          " + "".join(f"{count / total.samples:>{wide}.2%}" for _, count in bins) + f"   {share}"
