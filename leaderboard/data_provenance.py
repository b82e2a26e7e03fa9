"""Which images a defense used, from the configuration that a run records."""

from collections.abc import Mapping
from typing import Any

from gauntlet.evidence.manifest import Manifest
from gauntlet.leaderboard.run_metadata import mapping


def splits(manifest: Manifest, n: int) -> list[str]:
    """Return what each network was trained on, what parameters were fitted to, and what was evaluated."""
    defense = mapping(mapping(manifest.get("config")).get("defense"))
    parts = mapping(defense.get("parts"))
    networks: dict[str, list[str]] = {}
    for name in manifest.get("weights", {}):
        networks.setdefault(_training(parts.get(name)), []).append(str(name))
    lines = [f"{', '.join(names)}: {how}" for how, names in networks.items()]
    fitted = defense.get("calibration")
    if isinstance(fitted, Mapping):
        known = fitted.get("split") or "not recorded: they may be of images that are evaluated"
        of = f", {fitted['images']} images" if fitted.get("split") and fitted.get("images") else ""
        share = f", beta {fitted['beta']:g}" if isinstance(fitted.get("beta"), int | float) and of else ""
        lines.append(f"parameters fitted on: {known}{of}{share}")
    selection = str(manifest["dataset"].get("selection", "all"))
    which = "all" if selection == "all" else f"selection {selection}"
    return [*lines, f"evaluated on: test, {n:,} images ({which})"]


def _training(part: Any) -> str:
    """Return that of one network."""
    if not isinstance(part, Mapping):
        return "what it saw is not on record"
    weights, recipe = part.get("weights"), part.get("recipe")
    if weights == "included":
        return "weights that the model brings along; what they saw is not on record"
    if weights:
        return "weights from a file; what they saw is not on record"
    if not isinstance(recipe, Mapping):
        return "what it saw is not on record"
    by = mapping(recipe.get("selection")).get("by")
    method = str(mapping(recipe.get("objective")).get("_target_", "")).rpartition(".")[2]
    chosen = f", epoch chosen by {by} accuracy on validation" if by else ""
    return f"trained on train{f' ({method})' * bool(method)}{chosen}"
