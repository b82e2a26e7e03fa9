"""What to do after a run: go on, attack harder, check, show. As commands that can be pasted."""

import shlex
from dataclasses import dataclass
from pathlib import PurePath

from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.published import published_command
from gauntlet.evidence.recorded_command import command_of_all_shards, command_words

STRONGEST = {
    "gauntlet": "gauntlet_deep",
    "autoattack": "gauntlet",
    "autoattack_plus": "gauntlet",
    "autoattack_rand": "gauntlet",
}
"""Attacks that a table ranks by, each with the one to add where flags doubt it."""

NORMS = ("linf", "l2", "l1")
"""Norms in which these attacks work."""

DOUBTS = {
    "zero-gradients", "bad-gradients", "noisy-gradients", "decision-beats-scores", "black-box-wins", "dead-start",
    "gradient-mismatch", "shattered-gradients", "weaker-beats-stronger", "true-head-wins", "smaller-eps-wins",
}  # fmt: skip
"""Flags that say an attack may have missed adversarial examples."""


@dataclass(frozen=True)
class NextStep:
    """A command, and why to run it."""

    command: str
    why: str


def next_steps(manifest: Manifest, folder: str, runs: str, public: bool = False) -> list[NextStep]:
    """Return what to do after an attack run, what is most urgent first.

    Args:
        manifest: of the run.
        folder: of the run, as it is to be typed.
        runs: the folder of all runs, as it is to be typed.
        public: leave out options that name folders of the machine that made the run.
    """
    recorded = str(manifest.get("command", ""))
    shown = published_command(recorded) if public else recorded
    status = manifest["status"]
    steps = []
    if status != "done" and command_words(shown):
        why = "goes on where the run stopped" if status == "running" else "redoes the samples that ended with an error"
        steps.append(NextStep(command_of_all_shards(shown), why))
    harder = _harder(manifest, shown)
    steps += [harder] if harder else []
    if status == "done":
        steps.append(NextStep(shlex.join(["gauntlet", "verify", folder]), "checks the stored examples independently"))
    place = [] if PurePath(runs) == PurePath("runs") else ["--runs", runs]
    steps.append(NextStep(shlex.join(["gauntlet", "board", *place]), "builds the leaderboard from all runs"))
    return steps


def _harder(manifest: Manifest, command: str) -> NextStep | None:
    """Return the stronger attack to run: one that tables rank by, or more effort where flags ask for it."""
    threat, attack = manifest["threat"], manifest["name"].get("attack", "")
    words = command_words(command)
    if not words or manifest["status"] != "done" or threat["radius"] is None or threat["norm"] not in NORMS:
        return None
    doubts = sorted({flag["name"] for flag in manifest.get("flags", [])} & DOUBTS)
    less = manifest["heads"] != "declared" or manifest.get("access", "gradient") != "gradient"
    if attack in STRONGEST and not less and not doubts:
        return None
    other = STRONGEST.get(attack, "gauntlet") if doubts and not less else "gauntlet"
    dropped = ("attack=", "attack.", "+attack.", "++attack.", "~attack.", "heads=", "access=", "attacker.")
    kept = [word for word in words if not word.startswith(dropped)]
    why = (
        f"attacks harder: the flag {doubts[0]} says that examples may have been missed"
        if doubts
        else ("attacks every head with gradients and the effort that a rank needs")
    )
    return NextStep(shlex.join([*kept, f"attack={other}"]), why)
