"""The card of an entry: what its defense claims, what was used, what was attacked and what that cost.

Everything comes from the run folders; nothing is written by hand.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gauntlet.leaderboard.certificates import CertificateVerdict, Claims
from gauntlet.leaderboard.data_provenance import splits
from gauntlet.leaderboard.entry import Entry
from gauntlet.leaderboard.formatting import left, percent
from gauntlet.leaderboard.randomized_entries import draws_of
from gauntlet.leaderboard.run_metadata import ThreatKey, mapping
from gauntlet.metrics.display import UNKNOWN
from gauntlet.metrics.randomized_result import ACCURACIES, TRUE
from gauntlet.metrics.rejection import Rejection, rejection_lines

NOT_RUN = "not run"


@dataclass(frozen=True)
class CardLine:
    """A row of the card; key: its name in `board.json`."""

    key: str
    title: str
    values: tuple[str, ...]


def card(
    entry: Entry, entries: Sequence[Entry] = (), certificates: Sequence[CertificateVerdict] = ()
) -> tuple[CardLine, ...]:
    """Return the card of an entry.

    Args:
        entries: of all boards, for what is known of the same networks elsewhere.
        certificates: of all certificate runs.
    """
    lead = (entry.counted or entry.ended or entry.runs)[0].run.manifest
    described = mapping(lead.get("card"))
    found = {
        ("defense", "Defense"): _sentences(described.get("summary"), described.get("source")),
        ("model", "Model"): _model(lead),
        ("differs", "Differs from the paper"): _sentences(described.get("differs")),
        ("claims", "Claims"): _sentences(described.get("claim", "none")),
        ("clean", "Clean"): _clean(entry),
        ("non_adaptive", "Non-adaptive attack"): _non_adaptive(entry),
        ("adaptive", "Adaptive attack"): _adaptive(entry),
        ("rejection", "Rejection"): _rejection(entry.rejection),
        ("masking_index", "Gradient-masking index"): _masking(entry),
        ("heads", "Heads attacked"): _heads(entry),
        ("sources", "Candidates from"): _sources(entry),
        ("surrogates", "Surrogates"): _surrogates(mapping(lead.get("fidelity"))),
        ("networks", "Networks alone"): _networks(entry, entries),
        ("splits", "Splits used"): splits(lead, entry.n),
        ("settings", "Settings"): _settings(mapping(mapping(lead.get("config")).get("defense"))),
        ("cost", "Cost"): _cost(entry, described),
        ("randomness", "Randomness"): _randomness(entry, entries),
        ("certificate", "Certificate"): _certificate(entry, described, certificates),
        ("evidence", "Evidence"): _evidence(entry),
    }
    return tuple(CardLine(key, title, tuple(values)) for (key, title), values in found.items() if values)


def _sentences(*parts: object) -> list[str]:
    return [str(part) for part in parts if part]


def _model(manifest: Mapping[str, Any]) -> list[str]:
    """Return what the networks are, and what the user says of the model."""
    facts = [mapping(each) for each in mapping(manifest.get("networks")).values()]
    stated = [
        f"{each['architecture']}, {each.get('parameters', 0):,} parameters, pixels {each.get('preprocessing', '')}"
        for each in facts
        if "architecture" in each
    ]
    said = mapping(manifest.get("description"))
    words = {"paper": "paper", "authors": "authors", "link": "link", "extra_data": "extra data"}
    return list(dict.fromkeys(stated)) + [f"{title}: {said[key]}" for key, title in words.items() if key in said]


def _clean(entry: Entry) -> list[str]:
    value = entry.clean_accuracy
    if value is None:
        return ["unknown"]
    if entry.expected_clean:
        low, high = (100 * end for end in entry.expected_clean.interval)
        return [f"{100 * value:.1f} %, 95 % interval {low:.1f} to {high:.1f}"]
    return [f"{100 * value:.1f} %"]


def _non_adaptive(entry: Entry) -> list[str]:
    true = [attack for attack in entry.attacks if attack.column.endswith("(true head)")]
    direct = [f"{attack.column}: {'at most ' * bool(attack.open)}{left(attack, entry.n)} %" for attack in true]
    if entry.masking:
        return [f"{100 * entry.masking.true:.1f} % left by attacks on the deployed forward alone", *direct]
    alone = {stage.head for line in entry.counted for stage in line.stages[1:]} == {TRUE}
    return direct or (["the same: the deployed forward is its only head"] if alone else [NOT_RUN])


def _adaptive(entry: Entry) -> list[str]:
    if not entry.counted:
        return [NOT_RUN if entry.ended else ", ".join(entry.states)]
    names = ", ".join(sorted({line.run.attack for line in entry.counted}))
    if entry.threat.unbounded:
        return [f"distances only, by {names}"]
    if entry.unknown:
        return [f"{UNKNOWN}: each sample that was attacked ended without an answer, by {names}"]
    if entry.bounded:
        return [f"{_stated(entry)}: {entry.unanswered:,} of {entry.n:,} samples have no answer, by {names}"]
    low, high = (100 * end for end in entry.interval)
    kind = f"{entry.measure.lower()}, " if entry.measure else ""
    return [f"{kind}{_stated(entry)}, 95 % interval {low:.1f} to {high:.1f}, by {names}"]


def _stated(entry: Entry) -> str:
    """Return the robust accuracy as every page states it."""
    return UNKNOWN if entry.unknown else f"{'at most ' * entry.bounded}{100 * entry.accuracy:.1f} %"


def _rejection(found: Rejection | None) -> list[str]:
    """Return what a defense that rejects answers; clean and robust accuracy count what it answers rightly."""
    return [] if found is None else [" ".join(line.split()) for line in rejection_lines(found)]


def _masking(entry: Entry) -> list[str]:
    if entry.masking is None:
        return []
    described = entry.masking
    samples = f"{described.added:,} {'sample' if described.added == 1 else 'samples'}"
    best = f"{described.best} added most, {samples}" if described.best else "no other head added anything"
    return [f"{'at most ' * described.bound}{described.index:.1f} points; {best}"]


def _heads(entry: Entry) -> list[str]:
    draws: dict[str, set[int]] = {}
    for line in entry.ended:
        used, transferred = (mapping(line.run.manifest.get(key)) for key in ("draws", "sets"))
        for stage in line.stages[1:]:
            if stage.name in transferred:  # crafted on another network: no head of this defense was attacked
                continue
            number = mapping(used.get(stage.head)).get("draws")
            draws.setdefault(stage.head, set()).update([number] if isinstance(number, int) and number > 1 else [])
    if not draws:
        return [NOT_RUN]
    return [
        f"{head} ({' and '.join(map(str, sorted(numbers)))} draws per gradient)" if numbers else head
        for head, numbers in draws.items()
    ]


def _sources(entry: Entry) -> list[str]:
    """Return the networks of a transfer attacker, on which candidates were crafted."""
    found = [
        name
        for line in entry.ended
        for stage in mapping(line.run.manifest.get("sets")).values()
        for name in mapping(mapping(stage).get("sources"))
    ]
    return [f"{', '.join(dict.fromkeys(map(str, found)))}, by transfer"] if found else []


def _surrogates(fidelity: Mapping[str, Any]) -> list[str]:
    """On the first clean images: how often each head says what the deployed defense says, and how often it is right."""
    return [
        f"{head}: the deployed class on {seen['agrees']}, the label on {seen['right']} of the first {seen['of']} images"
        for head, seen in fidelity.items()
        if isinstance(seen, Mapping) and {"agrees", "right", "of"} <= set(seen)
    ]


def _networks(entry: Entry, entries: Sequence[Entry]) -> list[str]:
    """Return what the networks of a defense of several do by themselves, where the board knows that."""
    weights = mapping(entry.runs[0].run.manifest.get("weights"))
    if len(weights) < 2:
        return []
    found = []
    for part, digest in sorted(weights.items()):
        for other in entries:
            alone = mapping(other.runs[0].run.manifest.get("weights"))
            if list(alone.values()) == [digest] and (other.data, other.threat) == (entry.data, entry.threat):
                clean = percent(other.clean, other.known)
                found.append(f"{part}: clean {clean} %, under attack {_stated(other)} ({other.defense})")
    return found


def _settings(defense: Mapping[str, Any]) -> list[str]:
    plain = {
        name: value
        for name, value in sorted(defense.items(), key=lambda item: str(item[0]))
        if not str(name).startswith("_") and name not in ("parts", "calibration")
    }
    return [f"{name}: {_words(value)}" for name, value in plain.items() if isinstance(value, str | int | float | list)]


def _words(value: object) -> str:
    """Return the items with commas between them; lists of lists with semicolons between these."""
    if not isinstance(value, list):
        return str(value)
    return ("; " if any(isinstance(item, list) for item in value) else ", ").join(map(_words, value))


def _cost(entry: Entry, described: Mapping[str, Any]) -> list[str]:
    forwards, parameters = described.get("forwards"), described.get("parameters")
    lines = []
    if isinstance(forwards, int | float):
        size = f", {parameters:,} parameters" if isinstance(parameters, int) else ""
        lines.append(f"a prediction: {forwards:g} forward {'pass' if forwards == 1 else 'passes'} of one network{size}")
    runs = len(entry.counted)
    if runs:
        count = f"{runs} {'run' if runs == 1 else 'runs'}"
        lines.append(f"the attacks: {entry.cost:,.0f} passes of the defended pipeline per attacked sample in {count}")
    return lines


def _randomness(entry: Entry, entries: Sequence[Entry]) -> list[str]:
    first = entry.runs[0].run
    if not first.rule:
        return ["random, without a protocol on record" if first.randomized else "none: predictions are deterministic"]
    bare = first.manifest.get("bare")
    alike = [
        other
        for other in (entry, *entries)
        if other.runs[0].run.manifest.get("bare") == bare and (other.data, other.threat) == (entry.data, entry.threat)
    ]
    lines = []
    for rule, name in ACCURACIES.items():
        known = {other.victim: other for other in alike if other.runs[0].run.rule == rule}
        values = [f"{_stated(other)} ({draws_of(other.runs[0].run)})" for other in known.values()]
        lines.append(f"{name}: {', '.join(values) or NOT_RUN}{', this entry' * (rule == first.rule)}")
    return lines


def _certificate(entry: Entry, described: Mapping[str, Any], certificates: Sequence[CertificateVerdict]) -> list[str]:
    first = entry.runs[0].run
    bare = str(first.manifest.get("bare", first.victim))
    return list(_claims(entry, bare, certificates)) or [_declared(described)]


def _claims(entry: Entry, bare: str, certificates: Sequence[CertificateVerdict]) -> Iterator[str]:
    for verdict in certificates:
        claims = verdict.claims
        if (claims.victim, claims.data, claims.norm) != (bare, entry.data, entry.threat.norm) or not claims.tabled:
            continue
        doubt = "a proof" if claims.kind == "sound_det" else f"confidence {100 * claims.total.confidence:g} % each"
        against = f"{verdict.samples} contradicted" if verdict.samples else "none contradicted"
        yield f"{claims.certifier}: {_share(claims, entry.threat)}, {doubt}, {against}"


def _share(claims: Claims, threat: ThreatKey) -> str:
    """Return what is certified against this threat; on average where it has no eps and radii were sought."""
    if claims.total.graded and threat.unbounded:
        low, high = claims.total.average_interval
        return f"average radius {claims.total.average:.4g} [{low:.4g}, {high:.4g}]"
    radius = threat.radius if claims.total.graded else min(threat.radius, claims.eps)
    low, high = claims.total.interval(radius)
    share = f"{percent(claims.total.certified(radius), claims.total.samples)} [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{share} % certified at {radius:.4g}"


def _declared(described: Mapping[str, Any]) -> str:
    declared = str(described.get("certificate", "none"))
    return "none" if declared == "none" else f"{declared}: {NOT_RUN} on this model"


def _evidence(entry: Entry) -> list[str]:
    total = len(entry.counted)
    return [
        f"{entry.n:,} samples",
        f"{total} adaptive {'run' if total == 1 else 'runs'}, {entry.verified} verified",
    ]
