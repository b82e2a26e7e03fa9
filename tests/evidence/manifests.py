"""The smallest whole `run.json`, for tests that need one."""

from gauntlet.evidence.manifest import Manifest


def small_manifest(**changes):
    """Return a manifest of a run of one chunk, with these fields changed."""
    base = {
        "schema_version": 1, "status": "running", "kind": "attack", "command": "python run.py attack=pgd", "config": {},
        "name": {"dataset": "digits", "threat": "linf-0.1", "defense": "none", "attack": "pgd"}, "config_hash": "0",
        "victim": "0", "threat": {"norm": "linf", "radius": 0.1}, "heads": "declared", "weights": {}, "card": {},
        "dataset": {"name": "digits", "digest": "sha256:0", "selection": "all", "samples": 2},
        "stages": ["clean", "a/true", "a/other"], "chunk": 2, "chunks": 1, "device": "cpu",
    }  # fmt: skip
    return Manifest(**(base | changes))
