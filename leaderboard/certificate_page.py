"""The page of certificates: a table and curves for each data set and norm."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from jinja2 import Environment

from gauntlet.errors import printable
from gauntlet.leaderboard import formatting
from gauntlet.leaderboard.attribution_pictures import AttributionGallery
from gauntlet.leaderboard.certificates import CertificateVerdict, Claims
from gauntlet.leaderboard.certified_bracket import BracketCurve
from gauntlet.leaderboard.chart import Axis, Chart, Line, dashed
from gauntlet.leaderboard.site_writer import Site
from gauntlet.metrics.certificate_summary import grid
from gauntlet.metrics.vote_shares import concentration

PAGE = "certificates.html"

COLUMNS = 6
"""Radii in a table."""

ABOUT = (
    "Certified accuracy in percent at each radius, with 95 % intervals. ACR: average certified radius, zero where "
    "wrong; it depends on the draws of each bound, and images that no noise moves weigh most (arXiv 2410.06895): below "
    "it the share that the tenth of the images with the largest radii adds. p_A: share of the votes for the class, of "
    "images that are right: median, and quartiles. Draws: per image. Contradicted: samples that attack runs on the "
    "same model broke within a certified radius. May fail: probability that a certificate is wrong. Verified: what "
    "the one who built this board checked; counts: radii were computed anew from the recorded votes."
)

ABOUT_ATTRIBUTIONS = (
    "In percent at each radius of an l2 ball, with 95 % intervals: samples that are predicted right and whose "
    "attribution keeps the cosine that was asked with that of every image in the ball. The other columns are those of "
    "certificates for classes."
)

KINDS = {"sound_prob": "with confidence", "sound_det": "proof"}


def write(
    site: Site,
    env: Environment,
    verdicts: Sequence[CertificateVerdict],
    galleries: Sequence[AttributionGallery] = (),
    brackets: Sequence[BracketCurve] = (),
) -> None:
    """Write the page; nothing where there are no certificates.

    galleries: of attributions that were certified; brackets: of models that were attacked and certified at several eps.
    """
    if not verdicts:
        return
    grouped: dict[tuple[Any, str], list[CertificateVerdict]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.claims.tabled:
            grouped[verdict.claims.data, verdict.claims.norm].append(verdict)
    page = env.get_template("certificates.html.j2").render(
        verdicts=verdicts,
        tables=[_table(grouped[key]) for key in sorted(grouped)],
        left=[v.claims for v in verdicts if not v.claims.tabled and v.claims.kind != "claimed"],
        foreign=[_foreign(v) for v in verdicts if v.claims.kind == "claimed"],
        galleries=galleries,
        brackets=[(f"bracket-{number}", curve, _bracket_chart(curve)) for number, curve in enumerate(brackets)],
        root="",
    )
    site.write(PAGE, page)


def _table(verdicts: Sequence[CertificateVerdict]) -> dict[str, Any]:
    first = verdicts[0].claims
    ordered = _told_apart(sorted(verdicts, key=lambda each: (-each.claims.total.average, each.claims.place)))
    proofs = {each.claims.eps for each in verdicts if not each.claims.total.graded}
    graded = [each.claims for each in verdicts if each.claims.total.graded]
    steps = grid(max((float(claims.radius.max(initial=0)) for claims in graded), default=0.0), first.norm)
    radii = sorted({*steps[:: -(-len(steps) // COLUMNS)], *proofs})
    norm = formatting.NORMS.get(first.norm, first.norm)
    heads = ["Defense and certifier", *(f"{radius:.4g}" for radius in radii)]
    heads += ["ACR", "p_A", "Draws", "Abstained", "Contradicted", "May fail", "Verified"]
    about = ABOUT_ATTRIBUTIONS if first.norm == "attribution" else ABOUT
    identity = hashlib.sha256(repr((first.data, first.norm)).encode()).hexdigest()[:8]
    return {
        "id": f"certified-{identity}",
        "title": f"{first.data.name} {norm}",
        "about": f"{formatting.samples(first.data, first.total.samples)}. {about}",
        "heads": heads,
        "rows": [_row(verdict, radii) for verdict in ordered],
        "chart": _chart([verdict.claims for verdict in ordered if verdict.claims.total.graded]),
        "votes": _histograms([verdict.claims for verdict in ordered]),
    }


def _told_apart(verdicts: Sequence[CertificateVerdict]) -> list[CertificateVerdict]:
    """Return the same with defenses that go by one name under one certifier marked by their folder."""
    claims = [each.claims for each in verdicts]
    counts = Counter((each.defense, each.certifier) for each in claims)
    marked = [
        replace(each, defense=f"{each.defense} {PurePath(each.place).name[-4:]}")
        if counts[each.defense, each.certifier] > 1
        else each
        for each in claims
    ]
    return [replace(verdict, claims=each) for verdict, each in zip(verdicts, marked, strict=True)]


def _foreign(verdict: CertificateVerdict) -> str:
    """Return a line about what another verifier claims."""
    claims, total = verdict.claims, verdict.claims.total
    whose = "samples that an attack left" if claims.survivors else "samples"
    share = f"{total.certified(claims.eps)} of {total.samples} {whose} at {claims.eps:.4g}"
    fate = f"{verdict.samples} contradicted by {verdict.attacks} attack runs"
    odd = f" ({', '.join(claims.problems)})" if claims.problems else ""
    return f"{claims.data.name}, {claims.defense}: {share}, claimed by {claims.origin}, not checked by us; {fate}{odd}"


def _row(verdict: CertificateVerdict, radii: Sequence[float]) -> list[tuple[str, str]]:
    """Return the cells of a row: what stands there, and what stands below it in small."""
    claims, total = verdict.claims, verdict.claims.total
    n, votes, doubt = total.samples, total.votes, 1 - total.confidence

    def share(radius: float) -> tuple[str, str]:
        if not total.graded and radius not in (0.0, claims.eps):
            return "–", ""
        low, high = total.interval(radius)
        return formatting.percent(total.certified(radius), n), f"{100 * low:.1f}–{100 * high:.1f}"

    graded, drawn = total.graded, total.samples_used > 0
    (low, high), (least, most) = total.average_interval, total.abstained_interval
    quartiles = [value for _, value in votes.quantiles()[1:4]] if votes else []
    return [
        (claims.defense, f"{claims.certifier}, {KINDS[claims.kind]}"),
        *(share(radius) for radius in radii),
        (f"{total.average:.3f}", f"{low:.3f}–{high:.3f}, tenth: {concentration(total.radius):.0%}")
        if graded
        else ("–", ""),
        (f"{quartiles[1]:.3f}", f"{quartiles[0]:.3f}–{quartiles[2]:.3f}") if quartiles else ("–", ""),
        (f"{total.samples_used / n:,.0f}", f"{total.trials:,} a bound")
        if drawn
        else ("–", "" if total.bounded else f"{total.forwards / n:,.0f} forwards"),
        (formatting.percent(total.abstained, n), f"{100 * least:.1f}–{100 * most:.1f}"),
        (str(verdict.samples), f"by {verdict.attacks} attack run{'s' * (verdict.attacks != 1)}"),
        (f"{doubt:.2g}", "") if doubt else ("0", "a proof"),
        (claims.verification.words, ""),
    ]


def _chart(claims: Sequence[Claims]) -> Chart | None:
    lines = [
        Line(
            printable(f"{each.defense}, {each.certifier}"),
            [(radius, round(100 * count / each.total.samples, 3)) for radius, count, _ in each.curve],
            intervals=[(round(100 * low, 3), round(100 * high, 3)) for _, _, (low, high) in each.curve],
        )
        for each in claims
        if each.curve
    ]
    if not lines:
        return None
    end = max(line.points[-1][0] for line in lines)
    return Chart(
        "Certified accuracy against the radius",
        Axis("radius", 0.0, 1.02 * end or 1.0),
        Axis("certified accuracy", -2, 102, " %"),
        dashed(lines),
    )


def _bracket_chart(curve: BracketCurve) -> Chart:
    """Draw what is proven and what nothing broke over eps; the bars are 95 % intervals of each by itself."""
    lines = [
        Line(
            name,
            [(eps, round(share, 3)) for eps, share, _, _ in points],
            intervals=[(round(low, 3), round(high, 3)) for _, _, low, high in points],
        )
        for name, points in curve.sides().items()
    ]
    end = curve.points[-1][0]
    return Chart(
        "Robust accuracy from both sides against eps",
        Axis("ε", 0.0, 1.02 * end),
        Axis("samples", -2, 102, " %"),
        dashed(lines),
    )


def _histograms(claims: Sequence[Claims]) -> list[tuple[str, list[tuple[str, float]]]]:
    """Return the name of each certificate that votes with its bins: in words, and their share of the images in
    percent."""
    return [
        (f"{each.defense}, {each.certifier}", [(word, 100 * count / each.total.samples) for word, count in bins])
        for each in claims
        if each.total.votes is not None and (bins := each.total.votes.histogram())
    ]
