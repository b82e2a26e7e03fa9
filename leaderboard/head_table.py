"""Which head of a defense gave way: stages summed over the runs of an entry."""

from collections import defaultdict
from dataclasses import dataclass

from gauntlet.leaderboard.entry import Entry
from gauntlet.leaderboard.sample_verdicts import StageTotals


@dataclass(frozen=True)
class HeadLine:
    """One head, over all counted runs. A later head meets only the survivors of earlier ones."""

    head: str
    stages: tuple[str, ...]
    attacked: int
    successes: int
    best: bool  # most successes, where there are several


def heads(entry: Entry) -> list[HeadLine]:
    """Return the heads in the order in which the runs attack them."""
    grouped: dict[str, list[StageTotals]] = defaultdict(list)
    for line in entry.counted:
        for stage in line.stages[1:]:
            grouped[stage.head].append(stage)
    most = max((sum(stage.successes for stage in stages) for stages in grouped.values()), default=0)
    return [
        HeadLine(
            head=head,
            stages=tuple(dict.fromkeys(stage.name for stage in stages)),
            attacked=sum(stage.attacked for stage in stages),
            successes=sum(stage.successes for stage in stages),
            best=len(grouped) > 1 and most > 0 and sum(stage.successes for stage in stages) == most,
        )
        for head, stages in grouped.items()
    ]
