"""What broke the samples of an entry: each run as one bar, cut into what was wrong, broken by each stage, and left."""

from dataclasses import dataclass

from gauntlet.leaderboard.entry import Entry, RunLine


@dataclass(frozen=True)
class FlowSegment:
    """Samples of one fate; kind: wrong (without an attack), broken, robust or open. `shade` counts broken segments."""

    kind: str
    title: str
    count: int
    start: int  # samples before it
    shade: int = 0


@dataclass(frozen=True)
class FlowBar:
    """One run; the segments add up to the samples of the entry."""

    number: int  # of the run on the page, from 1
    run: str
    through: str
    segments: tuple[FlowSegment, ...]


def flow(entry: Entry) -> tuple[FlowBar, ...]:
    """Return a bar for each run that has ended, in the order of the page; none for distances or shares of draws."""
    if entry.threat.unbounded or entry.expected:
        return ()
    bars = [
        FlowBar(number, line.run.attack, line.run.through, tuple(_segments(line, entry.n)))
        for number, line in enumerate(entry.runs, 1)
        if line.ended
    ]
    return tuple(bar for bar in bars if bar.segments)


def _segments(line: RunLine, n: int) -> list[FlowSegment]:
    """Return what became of the samples in this run alone; nothing where its stages do not add up to its survivors.

    Where every stage attacks every sample, a sample may fall to several stages, and no bar can be cut.
    """
    first, *attacks = line.stages
    parts = [("wrong", "wrong without an attack", first.successes, 0)]
    parts += [("broken", stage.name, stage.successes, at) for at, stage in enumerate(attacks)]
    parts += [("robust", "not broken", line.survivors, 0), ("open", "without an answer", line.open, 0)]
    if sum(count for _, _, count, _ in parts) != n:
        return []
    out, start = [], 0
    for kind, title, count, shade in parts:
        if count:
            out.append(FlowSegment(kind, title, count, start, shade))
        start += count
    return out
