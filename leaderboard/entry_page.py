"""The page of an entry: what broke it, which images, which classes, and how to repeat it."""

from collections.abc import Iterable, Sequence
from posixpath import commonpath

from jinja2 import Environment

from gauntlet.evidence.next_steps import NextStep, next_steps, verify_step
from gauntlet.evidence.published import published_command
from gauntlet.evidence.recorded_command import command_of_all_shards
from gauntlet.leaderboard import formatting
from gauntlet.leaderboard.attribution_pictures import AttributionGallery
from gauntlet.leaderboard.class_results import class_results
from gauntlet.leaderboard.entry import Board, Entry, RunLine
from gauntlet.leaderboard.entry_card import CardLine
from gauntlet.leaderboard.examples import ExamplePictures, Gallery, gallery
from gauntlet.leaderboard.head_table import heads
from gauntlet.leaderboard.margin_histogram import margin_histogram
from gauntlet.leaderboard.query_plot import query_chart
from gauntlet.leaderboard.ranking_floor import reaches
from gauntlet.leaderboard.risk_coverage_plot import risk_coverage_chart
from gauntlet.leaderboard.robustness_curve_plot import curve_chart
from gauntlet.leaderboard.run_metadata import mapping
from gauntlet.leaderboard.site_writer import Site
from gauntlet.leaderboard.stage_flow import flow
from gauntlet.metrics.display import DASH


def write_entry(
    site: Site,
    env: Environment,
    board: Board,
    entry: Entry,
    boards: Sequence[Board],
    damaged: list[str],
    card: Sequence[CardLine],
    compare: str = "",
    attributions: Sequence[AttributionGallery] = (),
) -> None:
    """Write the page of an entry and its images. Examples that cannot be read are added to `damaged`.

    compare: the page that sets it beside others, from the root of the site; empty where there is none.
    attributions: those of the same model that were certified.
    """
    address = formatting.address(entry)
    shown = gallery(entry, damaged)
    for example in shown.pictures:
        for kind, data in _images(example):
            site.write(f"entries/{address}/{example.record.sample}-{kind}.png", data)
    bars = {bar.number: bar for bar in flow(entry)}
    page = env.get_template("entry.html.j2").render(
        board=board,
        entry=entry,
        card=card,
        compare=compare,
        attributions=attributions,
        heads=heads(entry),
        bars={number: bars.get(number) for number in range(1, len(entry.runs) + 1)},
        history=_history(entry),
        classes=class_results(entry),
        margins=margin_histogram(entry),
        steps=_steps(entry),
        seconds=_seconds,
        curve=curve_chart(entry.curves, entry.threat.radius) if entry.curves else None,
        queries=query_chart(entry.queries) if entry.queries else None,
        coverage=risk_coverage_chart(entry.rejection) if entry.rejection else None,
        relatives=[
            other
            for each in boards
            for other in each.entries
            if other is not entry and (other.victim, other.data.digest) == (entry.victim, entry.data.digest)
        ],
        missing=[column for column in _columns(board) if column not in {attack.column for attack in entry.attacks}],
        gallery=shown,
        choices=_choices(shown),
        root="../",
    )
    site.write(f"entries/{address}.html", page)


def _images(example: ExamplePictures) -> Iterable[tuple[str, bytes]]:
    return ("clean", example.clean), ("adversarial", example.adversarial), ("difference", example.difference)


def _choices(shown: Gallery) -> dict[str, list[str]]:
    """Return what the examples can be narrowed down to; classes in the order of their numbers."""
    found = shown.pictures
    return {
        "stage": sorted({each.record.stage for each in found}),
        "label": [name for _, name in sorted({(each.record.label, each.label) for each in found})],
        "pred": [name for _, name in sorted({(each.record.pred, each.pred) for each in found})],
    }


def _history(entry: Entry) -> list[RunLine]:
    """Return the counted runs in the order in which they ended, where each leaves a number of samples."""
    if entry.threat.unbounded or entry.expected or entry.open:
        return []
    lines = [line for line in entry.runs if line.after is not None]
    return sorted(lines, key=lambda line: (line.run.manifest.get("finished") or "", line.run.place))


def _steps(entry: Entry) -> list[NextStep]:
    """Return the commands that repeat the runs of an entry, then those that go on; each once."""
    repeat = [
        NextStep("repeat", command, f"repeats {line.run.attack}")
        for line in entry.runs
        for command in [command_of_all_shards(published_command(str(line.run.manifest.get("command", ""))))]
        if command
    ]
    done = {"verify", *(["rank"] if any(reaches(line.run) for line in entry.counted) else [])}  # one check for all runs
    further = [
        step
        for line in entry.runs
        for step in next_steps(line.run.manifest, f"runs/{line.run.place}", "runs", public=True)
        if step.kind not in done
    ]
    unchecked = [line.run.place for line in entry.ended if line.verification.state != "verified"]
    if unchecked:
        repeat.append(verify_step(commonpath([f"runs/{each}" for each in unchecked])))
    return list({step.command: step for step in [*repeat, *further]}.values())


def _seconds(line: RunLine) -> str:
    """Return the seconds of all stages of a run; a dash where they are not on record."""
    spent = [mapping(each).get("seconds") for each in mapping(line.run.manifest.get("cost")).values()]
    known = [value for value in spent if isinstance(value, int | float)]
    return f"{sum(known):,.1f}" if known else DASH


def _columns(board: Board) -> list[str]:
    """Return the attack columns of a board: those on declared heads first."""
    found = {(not attack.declared, attack.column) for entry in board.entries for attack in entry.attacks}
    return [column for _, column in sorted(found)]
