"""What the heads of a defense gave beyond its deployed forward: how far that hides its gradient. No torch."""

from itertools import pairwise

from gauntlet.metrics.attack_summary import TRUE, AttackSummary


def beyond(total: AttackSummary) -> dict[str, int]:
    """Head -> samples that it was the first to break, in the order of the stages, for stages called ATTACK/HEAD.

    A head meets what those before it left standing: a count says what a head adds, not what it would break alone.
    """
    found: dict[str, int] = {}
    for (_, before), (stage, after) in pairwise(total.standing.items()):
        if "/" in stage:
            head = stage.rpartition("/")[2]
            found[head] = found.get(head, 0) + before - after
    return found


def head_lines(total: AttackSummary) -> list[str]:
    """One line where there are several heads: what is left by the true head, which a non-adaptive attack would have
    reported, and by all; their difference is the gradient-masking index. With one attack it is exact; in a suite the
    true head of a later attack might have found what another head found before it, so it is a bound."""
    if total.alone:
        return _expected(total)
    found = beyond(total)
    others = {head: count for head, count in found.items() if head != TRUE}
    if TRUE not in found or not others or not total.samples:
        return []
    attacks = {stage.rpartition("/")[0] for stage in total.standing if stage.endswith(f"/{TRUE}")}
    more, last = sum(others.values()), list(total.standing.values())[-1]
    alone, both = (count / total.samples for count in (last + more, last))
    best = max(others, key=lambda head: others[head])
    told = f"true {alone:.2%}, all {both:.2%}; gradient-masking index {'at most ' * (len(attacks) > 1)}"
    won = f"; {best} added most, {others[best]}" if others[best] else ""
    return [f"left by heads     {told}{100 * (alone - both):.2f} points{won}"]


def _expected(total: AttackSummary) -> list[str]:
    """Of a randomised defense, whose every head attacks every sample: by expected accuracy, hence exact."""
    added = {head: count for head, count in total.won.items() if head != TRUE}
    alone, both = (sum(shares) / len(shares) for shares in (total.alone, total.correct))
    best = max(added, key=lambda head: added[head])
    told = f"true {alone:.2%}, all {both:.2%}; gradient-masking index {100 * (alone - both):.2f} points"
    won = f"; {best} added most, {added[best]}" if added[best] else ""
    return [f"left by heads     {told}{won}"]
