"""Tables for papers: `gauntlet table runs --format latex`. One table for each data set and threat, from the evidence.

Entries come in the order of the board, with 95 % intervals; those that no other is significantly better than are bold.
"""

import argparse
import csv
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gauntlet.commands.board_input import RunSelection, add_arguments
from gauntlet.errors import UserError, printable
from gauntlet.leaderboard.class_results import worst_of
from gauntlet.leaderboard.entry import Board, Entry
from gauntlet.leaderboard.formatting import samples
from gauntlet.metrics.display import DASH, csv_row, points
from gauntlet.system.atomic_file import write_atomically


class TableCell(NamedTuple):
    """A text, and whether it is bold."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class PaperTable:
    """What is shown of one board, before it is written in a language."""

    caption: str
    label: str
    heads: tuple[str, ...]
    rows: tuple[tuple[TableCell, ...], ...]


COLUMNS = ("Defense", "Model", "Clean", "Robust", "95 % interval", "Worst class", "Rank", "Attacks", "F + 2B")


def table(board: Board) -> PaperTable:
    """Return the table of a board: accuracies in percent, in the order of the board."""
    first = board.entries[0]
    versions = sorted({f"torch {v}" for e in board.entries for v in _versions(e, "torch")})
    what = f"{board.data.name}, {board.threat.norm} eps = {board.eps}, {samples(board.data, first.n)}"
    caption = (
        f"Robust accuracy in percent on {what}: worst case of each sample over all attacks on record. "
        "Bold: no other entry is significantly better (exact McNemar tests, Holm's adjustment, 5 %). "
        "Worst class: the lowest robust accuracy of any class, and which has it. "
        "F + 2B: passes of the network for each attacked sample."
        + (f" Ranked: attacked by {board.floor}." if board.floor else "")
    )
    if versions:
        caption += f" Versions: {', '.join(versions)}."
    rows = tuple(_row(entry) for entry in board.entries)
    words = f"{board.data.name}-{board.threat.norm}-{board.eps}"
    return PaperTable(caption, "tab:" + "".join(c if c.isalnum() or c == "-" else "-" for c in words), COLUMNS, rows)


def _row(entry: Entry) -> tuple[TableCell, ...]:
    leads = entry.rank is not None and entry.rank[0] == 1
    low, high = entry.interval
    worst = worst_of(entry)
    rank = "-".join(dict.fromkeys(map(str, entry.rank))) if entry.rank else DASH
    return (
        TableCell(entry.defense, leads),
        TableCell(entry.model),
        TableCell(points(entry.clean_accuracy)),
        TableCell(_robust(entry), leads),
        TableCell("" if entry.unknown or entry.bounded else f"[{points(low)}, {points(high)}]"),
        TableCell(f"{points(worst[0].accuracy)} ({worst[1]})" if worst else DASH),
        TableCell(rank),
        TableCell(", ".join(attack.column for attack in entry.attacks)),
        TableCell(f"{entry.cost:,.0f}"),
    )


def _robust(entry: Entry) -> str:
    """Return the robust accuracy; where samples lack an answer, the most that it can be."""
    if entry.unknown:
        return DASH
    return f"{'≤ ' * entry.bounded}{points(entry.accuracy)}"


def _versions(entry: Entry, name: str) -> set[str]:
    return {str(line.run.manifest["versions"][name]) for line in entry.runs if name in line.run.manifest["versions"]}


LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "≤": r"$\leq$", "–": "--", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}",
}  # fmt: skip
MARKDOWN = {c: f"\\{c}" for c in "\\`*_{}[]<>|~"}
TYPST = {c: f"\\{c}" for c in "\\#$*_`<>@[]~/"}


def escaped(text: str, signs: dict[str, str]) -> str:
    """Return a text in which every special sign of a language stands for itself."""
    return "".join(signs.get(sign, sign) for sign in printable(text))


def latex(found: PaperTable) -> str:
    """Return a table for LaTeX with booktabs."""

    def cell(each: TableCell) -> str:
        text = escaped(each.text, LATEX)
        return rf"\textbf{{{text}}}" if each.bold else text

    lines = [r"\begin{table}", r"  \centering", rf"  \caption{{{escaped(found.caption, LATEX)}}}"]
    lines += [rf"  \label{{{found.label}}}", r"  \begin{tabular}{llrrllrlr}", r"    \toprule"]
    lines += ["    " + " & ".join(escaped(head, LATEX) for head in found.heads) + r" \\", r"    \midrule"]
    lines += ["    " + " & ".join(map(cell, row)) + r" \\" for row in found.rows]
    return "\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table}"]) + "\n"


def markdown(found: PaperTable) -> str:
    """Return a table for Markdown, as GitHub reads it."""

    def cell(each: TableCell) -> str:
        text = escaped(each.text, MARKDOWN)
        return f"**{text}**" if each.bold else text

    lines = [escaped(found.caption, MARKDOWN), "", "| " + " | ".join(found.heads) + " |"]
    lines += ["|" + "|".join(" ---: " if i in (2, 3, 6, 8) else " --- " for i in range(len(found.heads))) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(map(cell, row)) + " |" for row in found.rows)]) + "\n"


def typst(found: PaperTable) -> str:
    """Return a figure with a table for Typst."""

    def cell(each: TableCell) -> str:
        text = escaped(each.text, TYPST)
        return f"[*{text}*]" if each.bold else f"[{text}]"

    lines = ["#figure(", f"  caption: [{escaped(found.caption, TYPST)}],", "  table("]
    lines += [f"    columns: {len(found.heads)},", "    stroke: none,", "    table.hline(),"]
    lines += ["    table.header(" + ", ".join(f"[{escaped(head, TYPST)}]" for head in found.heads) + "),"]
    lines += ["    table.hline(stroke: 0.5pt),"]
    lines += ["    " + ", ".join(map(cell, row)) + "," for row in found.rows]
    return "\n".join([*lines, "    table.hline(),", "  ),", f") <{found.label}>"]) + "\n"


def as_csv(found: PaperTable) -> str:
    """Return the cells as data, with a column that says which table a row is of."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(["Table", *found.heads, "Bold"])
    for row in found.rows:
        writer.writerow(csv_row([found.label.removeprefix("tab:"), *(cell.text for cell in row), int(row[0].bold)]))
    return sink.getvalue()


FORMATS: dict[str, Callable[[PaperTable], str]] = {
    "markdown": markdown,
    "latex": latex,
    "typst": typst,
    "csv": as_csv,
}


def _written(boards: Sequence[Board], form: str) -> Iterator[str]:
    for number, board in enumerate(boards):
        text = FORMATS[form](table(board))
        yield text if form != "csv" or number == 0 else text.split("\n", 1)[1]


def main(arguments: list[str] | None = None) -> int:
    """Print the tables of the runs below the given folders; 1 where there is none."""
    parser = argparse.ArgumentParser(prog="gauntlet table", description="Tables of the leaderboard for papers.")
    add_arguments(parser)
    parser.add_argument("--format", choices=FORMATS, default="markdown")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write to a file instead of the terminal")
    options = parser.parse_args(arguments)
    try:
        runs = RunSelection.of(options)
        shown = [board for board in runs.tables() if not board.threat.unbounded]
        if not shown:
            raise UserError(f"there is no attack run with an eps below {runs}")
        text = ("" if options.format == "csv" else "\n").join(_written(shown, options.format))
        if options.out is not None:
            write_atomically(options.out, text.encode())
    except UserError as cause:
        sys.stderr.write(f"error: {cause}\n")
        return 1
    if options.out is None:
        sys.stdout.write(text)
    return 0
