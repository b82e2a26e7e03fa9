"""Figures for papers: one column wide, fonts embedded, the same bytes for the same numbers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gauntlet.errors import UserError, printable

WIDTH, HEIGHT = 3.3, 2.6
"""Inches: one column of a paper with two."""

ENDINGS = (".pdf", ".svg", ".png")

SETTINGS: Any = {
    "font.size": 8, "axes.labelsize": 8, "legend.fontsize": 7, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 1.2, "axes.grid": True,
    "grid.linewidth": 0.4, "grid.color": "#dddddd", "legend.frameon": False, "savefig.dpi": 300,
    "pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "gauntlet",
}  # fmt: skip
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which color-blind readers tell apart; dashes tell the lines apart in gray too."""

DASHES = ("-", "--", ":", "-.", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)))


class Drawing(NamedTuple):
    """One figure: its title in a word or two, and what draws it into axes."""

    name: str
    draw: Callable[[Any], None]


def line(axes: Any, number: int, x: Sequence[float], y: Sequence[float], name: str, style: str = "steps-post") -> None:
    """Draw a line whose color and dashes tell it from those of other numbers, and name it in the legend."""
    axes.plot(x, y, drawstyle=style, linestyle=DASHES[number % len(DASHES)], color=COLORS[number % len(COLORS)],
              label=plain(name))  # fmt: skip
    axes.legend()


def plain(text: str) -> str:
    """Return a text that matplotlib shows as it is: it would take dollar signs for mathematics."""
    return printable(text).replace("$", "\\$")


def check_ending(path: Path | None) -> None:
    """Refuse a file that no figure can be written to; None is none. Raises UserError."""
    if path is not None and path.suffix not in ENDINGS:
        raise UserError(f"{path} has no ending that can be drawn; end it in {', '.join(ENDINGS)}")


def save(drawings: Sequence[Drawing], out: Path) -> list[Path]:
    """Write each drawing to a file; with more than one, its number comes before the ending.

    Raises:
        UserError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        import matplotlib
    except ImportError:
        raise UserError("figures need matplotlib; install it: pip install 'gauntlet-robustness[plot]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    written = []
    with matplotlib.rc_context(SETTINGS):
        for number, drawing in enumerate(drawings, 1):
            path = out if len(drawings) == 1 else out.with_name(f"{out.stem}-{number}{out.suffix}")
            figure, axes = pyplot.subplots(figsize=(WIDTH, HEIGHT), layout="constrained")
            try:
                drawing.draw(axes)
                axes.set_title(plain(drawing.name), fontsize=8, loc="left")
                dated = (
                    {"Date": None} if path.suffix == ".svg" else {"CreationDate": None} if path.suffix == ".pdf" else {}
                )
                figure.savefig(path, metadata=dated)
            except OSError as cause:
                raise UserError(f"{path} cannot be written: {cause.strerror}; choose another file") from None
            finally:
                pyplot.close(figure)
            written.append(path)
    return written
