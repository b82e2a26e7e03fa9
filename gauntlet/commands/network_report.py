"""The first lines of a report: which networks, from which files, with which weights and preprocessing."""

from gauntlet.evidence.manifest import Manifest


def network_lines(manifest: Manifest) -> list[str]:
    """Return what was under attack, a few lines for each network of the defense; empty for runs that do not say it."""
    networks, out = manifest.get("networks", {}), []
    for name, facts in networks.items():
        title = "model" if len(networks) == 1 else f"network {name}"
        weights = manifest["weights"].get(name, "").removeprefix("sha256:")[:12]
        stated = [
            facts.get("architecture", ""),
            f"{facts.get('parameters', 0):,} parameters",
            f"weights {weights} ({facts.get('source', '')})",
        ]
        out.append(f"{title:<17}{', '.join(stated)}")
        out.append(f"{'pixels':<17}{facts.get('preprocessing', '')}")
        out += [f"{'':<17}{line}" for line in facts.get("loaded", [])]
    if out and (named := manifest["name"].get("model")):
        out.insert(0, f"{'name':<17}{named}")
    return out
