"""Changes to the manifest of a run, which the processes that share it make one after the other."""

from collections.abc import Callable

from gauntlet.evidence.manifest import Manifest, Origin
from gauntlet.evidence.run_folder import RunFolder
from gauntlet.system.lock import sole_owner


def amend(run: RunFolder, change: Callable[[Manifest], None]) -> Manifest:
    """Change the manifest as it stands on disk by now, and return it.

    Raises:
        UserError: it cannot be written.
    """
    with sole_owner(run.path, "manifest", None, warn=False):
        manifest = run.manifest()
        change(manifest)
        run.update(manifest)
    return manifest


def reopen(run: RunFolder, mine: Manifest) -> Manifest:
    """Say that there is work again, and by what code, before any of it is done.

    Args:
        mine: the manifest as this process would have written it.
    """

    def change(manifest: Manifest) -> None:
        now = Origin(
            commit=mine.get("commit"),
            dirty=mine.get("dirty"),
            versions=mine.get("versions"),
            device=mine.get("device"),
        )
        made = manifest.setdefault("made_by", [])
        if now not in made:
            made.append(now)
        manifest["status"] = "running"

    return amend(run, change)
