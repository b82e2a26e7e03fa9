"""What to do after a run: go on, attack harder, check, show. As commands that can be pasted."""

import shlex
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

from gauntlet.evidence.attack_floor import NORMS, holds_floor
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.published import published_command
from gauntlet.evidence.recorded_command import command_of_all_shards, command_words

DEEPEST = "gauntlet_deep"
"""The attack with the most effort."""

DOUBTS = {
    "zero-gradients", "bad-gradients", "noisy-gradients", "decision-beats-scores", "black-box-wins", "dead-start",
    "gradient-mismatch", "shattered-gradients", "weaker-beats-stronger", "true-head-wins", "smaller-eps-wins",
}  # fmt: skip
"""Flags that say an attack may have missed adversarial examples."""


@dataclass(frozen=True)
class NextStep:
    """A command, and why to run it.

    kind: repeat the run, go on with it, attack harder, for a rank or since a flag doubts the attack, verify, or build
    the board.
    """

    kind: Literal["repeat", "resume", "rank", "doubt", "verify", "board"]
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
        steps.append(NextStep("resume", command_of_all_shards(shown), why))
    harder = _harder(manifest, shown)
    steps += [harder] if harder else []
    if status == "done":
        steps.append(verify_step(folder))
    place = [] if PurePath(runs) == PurePath("runs") else ["--runs", runs]
    steps.append(NextStep("board", shlex.join(["gauntlet", "board", *place]), "builds the leaderboard from all runs"))
    return steps


def verify_step(folder: str) -> NextStep:
    """Return the check of a run, or of all runs below a folder."""
    return NextStep("verify", shlex.join(["gauntlet", "verify", folder]), "checks the stored examples independently")


def _harder(manifest: Manifest, command: str) -> NextStep | None:
    """Return the stronger attack to run: one that tables rank by, or more effort where flags ask for it."""
    threat, attack = manifest["threat"], manifest["name"].get("attack", "")
    words = command_words(command)
    if not words or manifest["status"] != "done" or threat["radius"] is None or threat["norm"] not in NORMS:
        return None
    doubts = sorted({flag["name"] for flag in manifest.get("flags", [])} & DOUBTS)
    declared = manifest["heads"] == "declared" and manifest.get("access", "gradient") == "gradient"
    enough = declared and holds_floor(manifest["config"].get("attack"))
    if enough and (not doubts or attack == DEEPEST):
        return None
    other = DEEPEST if enough and attack == "gauntlet" else "gauntlet"
    dropped = ("attack=", "attack.", "+attack.", "++attack.", "~attack.", "heads=", "access=", "attacker.")
    again = shlex.join([*(word for word in words if not word.startswith(dropped)), f"attack={other}"])
    if doubts:
        return NextStep("doubt", again, f"attacks harder: the flag {doubts[0]} says that examples may have been missed")
    return NextStep("rank", again, "attacks every head with gradients and the effort that a rank needs")
