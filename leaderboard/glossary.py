"""What the columns of the board mean: the one table that heads, tooltips and glossary are made from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A column of the board, or another word that its reader meets."""

    key: str
    title: str
    meaning: str
    first: str = "desc"  # the order that the first click gives


RANK = Column(
    "rank",
    "Rank",
    "First and last place that the entry may hold: one more than the number of entries that are significantly "
    "better, and the number of entries less those that are significantly worse (exact McNemar tests on the same "
    "samples, Holm's adjustment over all pairs, 5 %). Entries whose ranks overlap cannot be distinguished. "
    "Bold: may be first. Ranked are entries that faced the attack which the table asks for; unfinished runs, marked "
    "running or interrupted, move neither rank nor number.",
    "asc",
)
DEFENSE = Column(
    "defense",
    "Defense",
    "The deployed pipeline; it links to the page with all evidence. Below it the model.",
    "asc",
)
CLEAN = Column("clean", "Clean", "Share of the samples that are classified correctly without an attack, in percent.")
ROBUST = Column(
    "robust",
    "Robust",
    "Share of the samples that are classified correctly and that no recorded attack broke within the threat, in "
    "percent: the number to quote. Below it the 95 % interval (Wilson's; of a randomized defense one over images and "
    "draws). “≤” marks entries with samples that were not "
    "attacked to the end: these do not count as robust, and the bound is what would remain if all of them were. “†” "
    "marks entries that adversarial examples from elsewhere lower: of the same weights on the same images, in other "
    "selections, at another ε, through the true head alone or without gradients.",
)
DISTANCE = Column(
    "robust",
    "Median distance",
    "Where ε is unbounded, in place of a robust accuracy: how far the nearest adversarial example over all recorded "
    "attacks lies, in the norm of the threat. The median over the samples that are classified correctly, below it the "
    "quartiles; “not found” where that many were not broken at all.",
)
WORST = Column(
    "worst",
    "Worst class",
    "The lowest robust accuracy of any class, in percent, and which class has it. The interval speaks of the lowest of "
    "all classes with 95 % confidence: those of all classes hold together (Clopper-Pearson, Bonferroni).",
)
ATTACKS = Column(
    "attacks",
    "Attacks",
    "Share of the samples that each attack alone does not break, in percent, over all its runs; the strongest comes "
    "first. “true head” marks attacks through the deployed forward pass alone, for comparison: they do not adapt to "
    "the defense and never earn a rank, though what they break is broken. “access” marks attackers that "
    "were given less than gradients; the same holds for them.",
)
MASKING = Column(
    "masking",
    "Masking",
    "Gradient-masking index, of defenses with several heads: what attacks on the deployed forward alone leave (a "
    "non-adaptive evaluation would report that), less what attacks on all declared heads leave, in points. Below it "
    "the first of the two, and the head that added most. “≤”: a bound, because a suite attacks its heads in turn.",
)
COST = Column(
    "cost",
    "Cost",
    "Passes of the defended pipeline per attacked sample, summed over all runs: K = F + 2 B for F forward and B "
    "backward passes.",
)
EVIDENCE = Column(
    "evidence",
    "Evidence",
    "Runs whose stored adversarial examples an independent check confirmed, with the records unchanged since; beside "
    "it the red flags, signs that the number may be too high, which the entry's page explains.",
)


def columns(unbounded: bool, masked: bool, classes: bool = False) -> tuple[Column, ...]:
    """Return the columns of a board, from left to right.

    Args:
        unbounded: whether its threat has no eps.
        masked: whether an entry has an index of gradient masking.
        classes: whether an entry has an accuracy of single classes.
    """
    robust = DISTANCE if unbounded else ROBUST
    worst, masking = ([WORST] if classes else []), ([MASKING] if masked else [])
    return (RANK, DEFENSE, CLEAN, robust, *worst, ATTACKS, *masking, COST, EVIDENCE)


TERMS = (
    Column(
        "threat",
        "Threat",
        "What the attacker may change: all images within distance ε in the given norm; of patches ε is the width.",
    ),
    Column(
        "proven",
        "Proven",
        "Share of the samples that a certifier proves at this ε, on the same model: no attack within the threat can "
        "change them. Robust accuracy lies between it and the share that no attack broke; the green bar is that gap.",
    ),
    Column("entry", "Entry", "One defended model with fixed weights, on one selection of samples, under one threat."),
    Column("front", "Pareto front", "Ranked entries that no other ranked entry beats in both accuracies."),
    Column(
        "measure",
        "Expected, vote, fixed-seed",
        "Three accuracies of a randomized defense, never mixed: the expected share of right draws that the attacker "
        "does not know, on the worst candidate of each sample; that of a majority of draws; that of one frozen draw "
        "which the attacker knows. The first two come from draws that chose nothing; their interval holds samples and "
        "draws.",
    ),
    Column("card", "Card", "What an entry claims, used, withstood and cost, generated from its runs."),
    Column("n", "n", "Number of samples, the same for all entries of a table."),
    Column("head", "Head", "A differentiable view of the defense that attacks take gradients from."),
    Column("stage", "Stage", "One attack on one head. Stages run one after the other, on the samples not broken yet."),
)

GLOSSARY = (RANK, DEFENSE, CLEAN, ROBUST, DISTANCE, WORST, ATTACKS, MASKING, COST, EVIDENCE, *TERMS)

READING = (
    "The interval speaks about the data distribution: how far the number may be off because only n samples were drawn. "
    "An attack gives an upper bound on robustness, so the true value can also be lower because the attacks were too "
    "weak; no interval covers that."
)
"""The line that every page with a robust accuracy carries."""

READING_DISTANCE = (
    "An attack gives an upper bound on the distance: an adversarial example that lies nearer may exist, and no attack "
    "found it."
)
"""The line of a page with distances instead."""
