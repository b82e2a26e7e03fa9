"""How the board speaks of randomized defenses: from how many draws a verdict comes, and why there is no rank."""

from collections.abc import Iterable

from gauntlet.leaderboard.run_metadata import AttackRun
from gauntlet.metrics.ensemble_bounds import least, risks
from gauntlet.metrics.randomized_result import RandomizedResult, WorstCandidates


def draws_of(run: AttackRun) -> str:
    """Return from how many draws a verdict comes, in words."""
    if run.rule == "fixed":
        return "one frozen draw, known to the attacker"
    return f"{run.draws} fresh draws" if run.draws else "exact over the members, nothing drawn"


def unranked_because(run: AttackRun, result: RandomizedResult | None) -> Iterable[str]:
    """Yield why a randomized defense has no rank: ranks compare verdicts that are either right or wrong."""
    if run.rule == "fixed":
        yield "its draws are frozen and known to the attacker (protocol=fixed)"
    elif run.rule and result:
        yield f"its predictions are random: {_stated(result)} (protocol={run.rule}, {draws_of(run)})" + (
            "" if result.all.open.any() else _members(run, result.all)
        )


def _stated(result: RandomizedResult) -> str:
    accuracy = result.accuracy()
    if accuracy.unknown:
        return "each sample that was attacked ended without an answer"
    right = f"{100 * accuracy.mean:.1f} % right on the worst candidates"
    if accuracy.open:
        return f"at most {right}, {accuracy.open} samples without an answer"
    low, high = (100 * end for end in accuracy.interval)
    return f"{right}, 95 % interval {low:.1f} to {high:.1f}"


def _members(run: AttackRun, whole: WorstCandidates) -> str:
    """Describe a mixture: its members alone, and what the best probabilities can give."""
    names = [] if run.draws else [str(name).removeprefix("member_") for name, _ in run.manifest.get("members", [])]
    if not names:
        return ""
    found = risks(whole.fooled, len(names))
    alone = ", ".join(f"{name} {100 * (1 - each):.1f}" for name, each in zip(names, found, strict=True))
    low, high = least(found)
    return f"; its members alone: {alone}; with the best probabilities {100 * (1 - high):.1f} to {100 * (1 - low):.1f}"
