"""What checking a run has found, and how it is told."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from gauntlet.evidence.example_storage import StoragePolicy
from gauntlet.evidence.run_folder import RunFolder

SHOWN = 20
"""Problems that are printed and kept; all are counted."""

NOT_STORED = "no adversarial examples were stored (runtime.keep=none)"
IN_PART = "{} of {} broken samples have their adversarial example stored (runtime.keep={})"


@dataclass
class Report:
    """What was checked in one run.

    Attributes:
        samples: whose clean prediction was repeated.
        checked: stored adversarial examples, also those that fooled nobody.
        claimed: rows that say "broken" in a stage other than the clean one.
        shown: those of `claimed` whose example is stored.
        keep: which adversarial examples the run was to store; without them nothing is verified.
        problems: one line each.
    """

    samples: int = 0
    checked: int = 0
    claimed: int = 0
    shown: int = 0
    keep: StoragePolicy = field(default_factory=lambda: StoragePolicy.of("broken"))
    problems: list[str] = field(default_factory=list)

    @property
    def verified(self) -> bool:
        """Every claim was confirmed."""
        return self.keep.images > 0 and self.shown == self.claimed and not self.problems

    @property
    def partial(self) -> bool:
        """What is stored was confirmed, and there are claims beyond it."""
        return 0 < self.shown < self.claimed and not self.problems

    @property
    def lack(self) -> str:
        """Why a run without problems is not verified."""
        return IN_PART.format(self.shown, self.claimed, self.keep.text) if self.keep.images else NOT_STORED


def lines(run: RunFolder, report: Report) -> Iterator[str]:
    """For people."""
    if not report.problems and not report.verified:
        yield f"{'verified in part' if report.partial else 'not verified'}: {run.path}\n  {report.lack}"
        return
    yield f"{'verified' if report.verified else f'{len(report.problems)} PROBLEMS'}: {run.path}"
    yield (
        f"  {report.claimed} broken samples claimed, {report.checked} adversarial examples reloaded: start image, box, "
        f"distance, fresh prediction;\n  {report.samples} clean predictions repeated; rows complete; manifest rebuilt "
        "from configuration, data and weights"
        if report.verified
        else f"  {report.claimed} broken samples claimed, {report.checked} adversarial examples and {report.samples} "
        "clean predictions checked"
    )
    yield "  not checked: whether a stronger attack breaks the survivors; seconds, pass counters and red flags"
    yield from (f"  {problem}" for problem in report.problems[:SHOWN])
    if len(report.problems) > SHOWN:
        yield f"  and {len(report.problems) - SHOWN} more"
