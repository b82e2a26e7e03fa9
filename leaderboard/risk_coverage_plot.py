"""Risk against coverage of a defense that rejects: what its answers are worth as fewer images are answered."""

from gauntlet.leaderboard.chart import Axis, Chart, Line
from gauntlet.metrics.rejection import Rejection


def risk_coverage_chart(found: Rejection) -> Chart | None:
    """Return the curve of the clean images over all thresholds, with the coverage at the deployed one marked; None
    without images.

    An attack stops at the deployed threshold, so that its candidates say nothing of others: no curve is drawn of them.
    """
    curve = found.risk_coverage()
    if not curve:
        return None
    points = [(100 * coverage, 100 * risk) for coverage, risk in curve]
    most = max(risk for _, risk in points)
    return Chart(
        "Wrong answers against coverage",
        Axis("clean images answered", 0.0, 102.0, " %"),
        Axis("wrong answers among them", -0.02 * (most or 1.0), 1.05 * (most or 1.0), " %"),
        (Line("clean images", points, "worst", stepped=True),),
        at=100 * float((found.clean >= 0).mean()),
    )
