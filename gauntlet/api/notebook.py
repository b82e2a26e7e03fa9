"""How a result looks in a notebook: its numbers as a table, and the first broken images as pictures."""

import base64
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from gauntlet.leaderboard.examples import png

SHOWN = 6
"""Broken images in a notebook."""

SIZE = 72
"""Pixels of a picture on the screen; small images are drawn larger."""

Image = NDArray[np.float32]


def table_html(title: str, head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table with a caption; the first cell of a line names it, the others are numbers."""
    heads = "".join(f"<th scope='col'>{escape(each)}</th>" for each in head)
    rows = "".join(
        f"<tr><th scope='row'>{escape(line[0])}</th>"
        + "".join(f"<td style='text-align:right'>{escape(each)}</td>" for each in line[1:])
        + "</tr>"
        for line in lines
    )
    caption = f"<caption style='text-align:left'>{escape(title)}</caption>" if title else ""
    return f"<table>{caption}<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def pictures_html(triples: Sequence[tuple[str, Image, Image]]) -> str:
    """Return clean image, adversarial image and their difference side by side.

    Args:
        triples: what to write below, the clean and the adversarial image, [C, H, W] with pixels in [0, 1]. All
            differences have one scale: the largest change that is shown is black or white, grey is none.
    """
    if not triples:
        return ""
    scale = max(float(np.abs(z - x).max()) for _, x, z in triples) or 1.0
    shown = "".join(
        "<figure style='display:inline-block;margin:0 1.2em 0.6em 0'>"
        + "".join(
            _image(image, alt)
            for alt, image in (("clean", x), ("adversarial", z), ("difference", 0.5 + (z - x) / (2 * scale)))
        )
        + f"<figcaption style='font-size:85%'>{escape(words)}</figcaption></figure>"
        for words, x, z in triples
    )
    return f"<p>clean, adversarial, difference (black and white: a change of {scale:.4g})</p><div>{shown}</div>"


def _image(image: NDArray[np.float64] | Image, alt: str) -> str:
    data = base64.b64encode(png(image)).decode()
    style = "image-rendering:pixelated;margin-right:3px;display:inline-block"
    return f"<img alt='{alt}' width='{SIZE}' style='{style}' src='data:image/png;base64,{data}'>"
