"""From a runs folder to a site: one group of runs in memory at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gauntlet.errors import UserError
from gauntlet.evidence.reported_table import ReportedTable, reported_tables
from gauntlet.leaderboard import certificate_page, render
from gauntlet.leaderboard.attribution_pictures import attribution_gallery
from gauntlet.leaderboard.certificates import CertificateVerdict, certified, verdicts
from gauntlet.leaderboard.certified_bracket import bracket_curves
from gauntlet.leaderboard.collect import DiscoveredRuns, collect, discover, relative
from gauntlet.leaderboard.entry import Board, Entry
from gauntlet.leaderboard.reported_page import write_reported
from gauntlet.leaderboard.score import boards, pools, score
from gauntlet.leaderboard.site_writer import Site
from gauntlet.leaderboard.verification_state import NO_VERDICTS, Fresh


@dataclass(frozen=True)
class Built:
    """What a build made: the tables, a line for every file that could not be read, and what became of certificates."""

    boards: tuple[Board, ...]
    damaged: tuple[str, ...]
    certificates: tuple[CertificateVerdict, ...] = ()


def build(runs: Path, out: Path, fresh: Fresh = NO_VERDICTS, floor: str = "standard") -> Built:
    """Score the runs below `runs` and write the site to `out`. The same records and verdicts give the same bytes.

    fresh: verdicts of a moment ago, by folder; of the other runs those beside them count that this user made.

    floor: what must have been run against an entry before it is ranked, a name of `ranking_floor.FLOORS`.

    Raises:
        UserError: there is no such runs folder, or the site cannot be written.
    """
    found = discover(runs)
    with Site(out) as site:
        return _write(site, found, runs, fresh, floor)


def scored(runs: Path, floor: str = "standard", folders: Sequence[Path] = ()) -> tuple[list[Board], list[str]]:
    """Return the tables of the runs below `runs`, and a line for every file that could not be read.

    floor: what must have been run against an entry before it is ranked, a name of `ranking_floor.FLOORS`.

    folders: the runs of these alone, which lie below `runs`; empty: all.

    Raises:
        UserError: there is no such runs folder.
    """
    return _boards(discover(runs, folders), runs, floor)


def _boards(found: DiscoveredRuns, runs: Path, floor: str, fresh: Fresh = NO_VERDICTS) -> tuple[list[Board], list[str]]:
    damaged = list(found.damaged)
    entries: list[Entry] = []
    for pool in pools(found.runs):
        evidence = [collect(run, runs, fresh) for run in pool]
        damaged += [line for each in evidence for line in each.damaged]
        entries += score(evidence)
    return boards(entries, floor), damaged


def _write(site: Site, found: DiscoveredRuns, runs: Path, fresh: Fresh, floor: str) -> Built:
    """Write every page."""
    tables, damaged = _boards(found, runs, floor, fresh)
    claims, unread = certified(runs, fresh)
    damaged += unread
    judged = verdicts(claims, found.runs)
    pictured = [(each, shown) for each in claims if (shown := attribution_gallery(site, each, damaged))]
    certificate_page.write(
        site, render.environment(), judged, [shown for _, shown in pictured], bracket_curves(tables, judged)
    )
    reported = write_reported(site, render.environment(), _reported(runs, damaged))
    render.write(site, tables, damaged, found.other - len(claims), judged, pictured, reported)
    return Built(tuple(tables), tuple(damaged), tuple(judged))


def _reported(runs: Path, damaged: list[str]) -> list[ReportedTable]:
    """Return what was imported from publications; a damaged file is a line of `damaged`."""
    try:
        return reported_tables(runs)
    except UserError as cause:
        damaged.append(relative(str(cause), runs))
        return []
