"""From entries to pages. Everything that is shown is escaped; nothing depends on the clock or on where things lie."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from gauntlet.errors import printable
from gauntlet.evidence.published import published
from gauntlet.leaderboard import chart, formatting
from gauntlet.leaderboard.attribution_pictures import AttributionGallery
from gauntlet.leaderboard.certificates import CertificateVerdict, Claims
from gauntlet.leaderboard.certified_bracket import bracket
from gauntlet.leaderboard.class_results import worst_of
from gauntlet.leaderboard.compare_page import compare_address, write_comparisons
from gauntlet.leaderboard.distribution_shift import shift_rows
from gauntlet.leaderboard.entry import Board
from gauntlet.leaderboard.entry_card import card
from gauntlet.leaderboard.entry_page import write_entry
from gauntlet.leaderboard.export import as_csv, as_json
from gauntlet.leaderboard.glossary import GLOSSARY, READING, READING_DISTANCE, columns
from gauntlet.leaderboard.plots import tradeoff
from gauntlet.leaderboard.randomized_entries import draws_of
from gauntlet.leaderboard.rankings_page import write_rankings
from gauntlet.leaderboard.site_writer import Site
from gauntlet.leaderboard.sparkline import sparklines
from gauntlet.metrics.anytime_interval import stop_words
from gauntlet.metrics.display import UNKNOWN
from gauntlet.metrics.randomized_result import ACCURACIES


def environment() -> Environment:
    """Return the templates with escaping always on, and errors for misspelt names."""
    env = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_filtered,
    )
    env.filters |= {"address": formatting.address, "anchor": formatting.anchor, "norm": formatting.norm, "yaml": yaml}
    env.filters["breakable"] = breakable
    env.filters |= {"published": published, "stop_words": stop_words}
    env.globals |= {
        "percent": formatting.percent,
        "per": formatting.per,
        "samples": formatting.samples,
        "reading": READING,
    }
    env.globals |= {"size": (chart.WIDTH, chart.HEIGHT), "box": (chart.LEFT, chart.TOP, chart.RIGHT, chart.BOTTOM)}
    env.globals |= {"reading_distance": READING_DISTANCE, "share": formatting.share, "left_by": formatting.left}
    env.globals |= {"names": ACCURACIES, "UNKNOWN": UNKNOWN, "draws_of": draws_of}
    return env


def _filtered(value: object) -> object:
    """Return a text of the evidence without signs that reorder or hide others; lines stay."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return "\n".join(map(printable, value.split("\n")))


def write(
    site: Site,
    boards: Sequence[Board],
    damaged: list[str],
    other: int,
    certificates: Sequence[CertificateVerdict] = (),
    pictured: Sequence[tuple[Claims, AttributionGallery]] = (),
    reported: str = "",
) -> None:
    """Write all pages but that of certificates, and that of reported accuracies, which lies at `reported`.

    Examples that cannot be read are added to `damaged` on the way.

    pictured: attributions that were certified, which the pages of the same model show.
    """
    env = environment()
    every = [entry for board in boards for entry in board.entries]
    cards = {entry: card(entry, every, certificates) for entry in every}
    brackets = {entry: bracket(entry, certificates) for entry in every}
    for board in boards:
        for entry in board.entries:
            mine = entry.victim, entry.data
            attributions = [shown for claims, shown in pictured if (claims.victim, claims.data) == mine]
            page = compare_address(board)
            write_entry(site, env, board, entry, boards, damaged, cards[entry], page, attributions)
    write_comparisons(site, env, boards)
    worst = {entry: worst_of(entry) for entry in every}
    classed = {board: any(worst[entry] for entry in board.entries) for board in boards}
    facets = _facets(boards)
    shift = shift_rows(boards)
    page = env.get_template("index.html.j2").render(
        boards=boards,
        figures={
            board: tradeoff(board)
            for board in boards
            if sum(not entry.unknown for entry in board.entries) > 1 and not board.threat.unbounded
        },
        columns={board: columns(board.threat.unbounded, _masked(board), classed[board]) for board in boards},
        rankings=write_rankings(site, env, boards),
        worst=worst,
        compare={board: compare_address(board) for board in boards},
        classed=classed,
        brackets=brackets,
        sparklines=dict.fromkeys(every) | sparklines(boards),
        masked={board: _masked(board) for board in boards},
        facets=facets,
        damaged=damaged,
        other=other,
        certificates=certificates,
        shift=shift,
        reported=reported,
        root="",
    )
    site.write("index.html", page)
    if boards:
        site.write("glossary.html", env.get_template("glossary.html.j2").render(glossary=GLOSSARY, root=""))
    site.write("board.json", as_json(boards, damaged, cards, brackets, shift))
    site.write("board.csv", as_csv(boards, brackets))
    static = Path(__file__).parent / "static"
    for name in ("board.css", "board.js", "compare.js", "gallery.js", "plots.js"):
        site.write(f"static/{name}", (static / name).read_bytes())


def _masked(board: Board) -> bool:
    """Return whether any entry of a board has an index of gradient masking; without one the column says nothing."""
    return any(entry.masking for entry in board.entries)


def _facets(boards: Sequence[Board]) -> list[dict[str, Any]]:
    """Return what the table can be narrowed down by; a facet with a single value would narrow nothing."""
    entries = [entry for board in boards for entry in board.entries]
    values = {
        "dataset": ("Data set", sorted({entry.data.name for entry in entries})),
        "norm": ("Norm", sorted({formatting.norm(entry.threat) for entry in entries})),
        "eps": ("ε", [text for _, text in sorted({(b.threat.radius, b.eps) for b in boards})]),
        "defense": ("Defense", sorted({entry.defense for entry in entries})),
        "verified": ("Verified", ["all runs", "some runs", "no run"]),
        "flagged": ("Red flags", ["flagged", "not flagged"]),
    }
    return [{"key": key, "title": title, "values": found} for key, (title, found) in values.items() if len(found) > 1]


def breakable(name: str) -> Markup:
    """Return a name that a narrow column may break after an underscore, a hyphen being such a place already."""
    return Markup("_<wbr>").join(escape(part) for part in printable(name).split("_"))


def yaml(value: Any, depth: int = 0) -> str:
    """Return plain nested data as indented `key: value` lines, ordered by key."""
    pad = "  " * depth
    if isinstance(value, dict) and value:
        return "".join(f"{pad}{key}:{_tail(value[key], depth)}" for key in sorted(value, key=str))
    if isinstance(value, list) and value:
        return "".join(f"{pad}-{_tail(item, depth)}" for item in value)
    return f"{pad}{_scalar(value)}\n"


def _tail(value: Any, depth: int) -> str:
    if isinstance(value, dict | list) and value:
        return "\n" + yaml(value, depth + 1)
    return f" {_scalar(value)}\n"


def _scalar(value: Any) -> str:
    plain = isinstance(value, str) and value.isprintable() and value.strip() == value != ""
    return str(value) if plain else json.dumps(value, ensure_ascii=False)
