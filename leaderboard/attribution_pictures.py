"""Attributions whose stability was certified, as pictures: the image, and what speaks for and against its class."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gauntlet.errors import UserError
from gauntlet.evidence.run_folder import MAPS, RunFolder
from gauntlet.leaderboard.certificates import Claims
from gauntlet.leaderboard.examples import png
from gauntlet.leaderboard.site_writer import Site
from gauntlet.metrics.display import class_name

LIMIT = 12
"""Samples on one page."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AttributionPicture:
    """One sample in words, and the addresses of its two pictures below the site."""

    sample: int
    predicted: str
    claim: str
    image: str
    map: str


@dataclass(frozen=True)
class AttributionGallery:
    """The pictures of one certificate run, what made them, and what is certified of all samples."""

    title: str
    method: str
    kind: str
    lines: Sequence[str]
    pictures: Sequence[AttributionPicture]


def attribution_gallery(site: Site, claims: Claims, damaged: list[str]) -> AttributionGallery | None:
    """Write the pictures of a certificate run and return them; None where it is not of attributions, or has none that
    can be read, which goes to `damaged` as a line."""
    if claims.norm != "attribution":
        return None
    config = claims.folder.manifest()["config"].get("certifier", {})
    method = str(config.get("method", "")) if isinstance(config, dict) else ""
    title, total = f"{claims.defense}, {claims.certifier}", claims.total
    lines = total.attribution.lines() if total.attribution else []
    try:
        pictures = _written(site, claims)
    except (UserError, OSError, KeyError, IndexError, TypeError, ValueError):
        damaged.append(f"{claims.place}: its attributions cannot be read; run the same command again to redo them")
        return None
    return AttributionGallery(title, method, claims.kind, lines, pictures) if pictures else None


def _written(site: Site, claims: Claims) -> list[AttributionPicture]:
    folder, out = claims.folder, list[AttributionPicture]()
    names = folder.manifest()["dataset"].get("class_names", [])
    at = f"attributions/{hashlib.sha256(claims.place.encode()).hexdigest()[:12]}"
    for chunk in sorted(folder.present()):
        if len(out) >= LIMIT or not folder.adversarial_path(chunk).exists():
            break
        for row, image, found in _of_chunk(folder, chunk)[: LIMIT - len(out)]:
            address = [f"{at}-{row['sample']}-{kind}.png" for kind in ("image", "map")]
            for name, data in zip(address, (image, found), strict=True):
                site.write(name, data)
            out.append(AttributionPicture(row["sample"], class_name(row["predict"], names), _claim(row), *address))
    return out


def _of_chunk(folder: RunFolder, chunk: int) -> list[tuple[dict[str, Any], bytes, bytes]]:
    """Return the rows without an error of a chunk that have an attribution, with the pictures of image and map."""
    arrays, stages = folder.read_staged_examples(chunk)
    if stages != [MAPS]:
        raise ValueError("these are no attributions")
    place = {int(sample): at for at, sample in enumerate(arrays["sample"])}
    rows = [row for row in folder.read_part(chunk).to_pylist() if row["error"] is None and row["sample"] in place]
    pictures = [(arrays["x"][place[row["sample"]]], arrays["z"][place[row["sample"]]]) for row in rows[:LIMIT]]
    return [(row, png(x), png(_signed(z))) for row, (x, z) in zip(rows, pictures, strict=False)]


def _claim(row: dict[str, Any]) -> str:
    cosine = f"cosine ≥ {row['cosine']:.2f}" if row["cosine"] is not None and row["cosine"] >= 0 else "no cosine"
    kept = row["overlap"]
    return f"{cosine}, {kept:.0%} of the top pixels kept" if kept is not None and kept == kept else cosine


def _signed(found: NDArray[Any]) -> Floats:
    """Return a map [C, H, W] in color: red speaks for the class, blue against it, white does neither; by the sum of
    the channels in parts of its largest value."""
    mean = np.nan_to_num(found.astype(float)).sum(0)
    part = mean / max(float(np.abs(mean).max()), 1e-12)
    return np.stack([1 - np.maximum(-part, 0), 1 - np.abs(part), 1 - np.maximum(part, 0)])
