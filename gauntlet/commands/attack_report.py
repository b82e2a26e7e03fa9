"""Report of an attacked run: what the evidence says, in lines for the terminal."""

from gauntlet.commands.network_report import network_lines
from gauntlet.evidence.manifest import Manifest
from gauntlet.evidence.next_steps import next_steps
from gauntlet.jobs.attack_job import Outcome
from gauntlet.metrics.anytime_interval import stop_words
from gauntlet.metrics.attack_summary import AttackSummary, expected_words, robust_words
from gauntlet.metrics.class_accuracy import worst_classes
from gauntlet.metrics.display import span, threat_words
from gauntlet.metrics.ensemble_bounds import bound_lines
from gauntlet.metrics.fooling_ratio import fooling_lines, fooling_of
from gauntlet.metrics.gradient_masking import head_lines
from gauntlet.metrics.perturbation_size import spread_lines
from gauntlet.metrics.randomized_result import ACCURACIES
from gauntlet.metrics.rejection import Rejection, rejection_lines
from gauntlet.metrics.transfer_rates import lines as pair_lines
from gauntlet.metrics.transfer_rates import pairs_of
from gauntlet.threat_model.access import TRANSFER

PROTOCOLS = {
    "expected": "expected: share of {} fresh draws that are right, on the worst candidate of each image",
    "exact": "expected: probability of a right answer, exact over the members, on the worst candidate of each image",
    "vote": "vote: majority of {} fresh draws, on the worst candidate of each image",
    "fixed": "fixed: one frozen draw for each image, known to the attacker",
}


def lines(outcome: Outcome) -> list[str]:
    """Return the report of a run."""
    manifest, total = outcome.manifest, outcome.summary
    name, threat = manifest["name"], manifest["threat"]
    access = manifest.get("access", "gradient")
    headline = [name["defense"], manifest["dataset"]["name"], threat_words(threat), name["attack"]]
    out = ["", " · ".join([*headline, *([] if access == "gradient" else [f"access={access}"])])]
    out += network_lines(manifest)
    if total.samples:
        out += [*_accuracies(outcome), ""]
    out += _stages(manifest, total)
    out.append(f"(forwards and backwards: {'of the surrogates, ' if access == TRANSFER else ''}per attacked sample)")
    out += head_lines(total) if threat["radius"] is not None else []
    out += pair_lines(pairs_of(outcome.run, manifest))
    out += fooling_lines(fooling_of(outcome.run, manifest), manifest)
    flags = manifest.get("flags", [])
    out += [f"red flag: {flag['name']}: {flag['detail']}" for flag in flags] or ["red flags: none"]
    out += [f"not ranked: {count} samples with error: {text}" for text, count in total.errors.items()]
    for knob, value in manifest.get("replaced", {}).items():
        out.append(f"{knob}={value}: its own loss is not defined for {manifest['dataset']['classes']} classes")
    if manifest["heads"] == "true":
        out.append("not ranked: heads=deployed attacks the deployed forward only")
    if access != "gradient":
        out.append(f"not ranked: access={access}, the attacker had no gradients")
    if manifest["status"] == "running":
        out.append(
            f"this shard alone; {len(outcome.run.present())} of {manifest['chunks']} chunks are there; "
            "the other shards have the rest"
        )
    out.append(f"evidence: {outcome.run.path}")
    return out


def next_lines(outcome: Outcome) -> list[str]:
    """Return what to do after this run, as commands; nothing after one shard of several."""
    if outcome.manifest["status"] == "running":
        return []
    runs = str(outcome.manifest["config"].get("runs_dir", "runs"))
    steps = next_steps(outcome.manifest, str(outcome.run.path), runs)
    return ["", *(f"next: {step.command}\n      ({step.why})" for step in steps)]


def _accuracies(outcome: Outcome) -> list[str]:
    """Return the numbers to quote of a run with records, and how they are counted."""
    manifest, total = outcome.manifest, outcome.summary
    protocol = manifest.get("protocol")
    named = ACCURACIES.get(protocol["rule"] if protocol else "", "robust accuracy").lower()
    clean = f"clean accuracy   {total.clean / total.samples:7.2%}   ({total.clean} of {total.samples})"
    if expected := total.expected_clean:
        clean = f"clean accuracy   {expected.mean:7.2%}   95 % interval {span(*expected.interval)}"
    if manifest["threat"]["radius"] is None:
        numbers = spread_lines(outcome.run, manifest["threat"]["norm"])
    elif total.expected is None or total.unknown:
        numbers = [f"{named:<17}{robust_words(total)}"]
    else:
        numbers = [f"{named:<17}{expected_words(total.expected, total)}"]
        numbers.append(f"mostly right     {robust_words(total)}")
    if protocol:
        unsure = f"; abstains above p = {protocol['alpha']:g}" if protocol.get("alpha", 1) < 1 else ""
        counted = PROTOCOLS[protocol["rule"] if protocol["draws"] else "exact"].format(protocol["draws"])
        numbers.append(f"protocol         {counted}{unsure}")
    if "labels" in manifest["dataset"]:
        numbers.append(
            "labels           predicted by the model itself: robust accuracy is the share of predictions that stay"
        )
    if "target" in manifest["threat"]:
        numbers.append("goal             targeted: only the target class of an image is a success")
    if "stop_when" in manifest:
        numbers.append(f"stopped          {stop_words(manifest['stop_when'])}")
    numbers += rejection_lines(Rejection.of_run(outcome.run))
    if manifest["threat"]["radius"] is not None:
        fooled = total.randomized.all.fooled if total.randomized and not total.bounded else None
        numbers += bound_lines(fooled, manifest)
        numbers += [] if total.expected else worst_classes(total, manifest["dataset"].get("class_names", []))
    return [clean, *numbers]


def _stages(manifest: Manifest, total: AttackSummary) -> list[str]:
    """Return a line for each stage, with the draws of its gradients where its head is random."""
    draws, random = manifest.get("draws", {}), bool(manifest.get("draws"))
    columns = f"{'forwards':>10}{'backwards':>10}{'seconds':>9}{'draws' * random:>{7 * random}}"
    out = [f"{'stage':<24}{'attacked':>9}{'survivors':>11}{columns}"] if total.samples else []
    for stage, cost in total.cost.items():
        used, each = draws.get(stage.rpartition("/")[2], {}).get("draws", ""), max(cost["attacked"], 1)
        out.append(
            f"{stage:<24}{cost['attacked']:>9}{total.survivors[stage]:>11}{cost['forwards'] / each:>10.1f}"
            f"{cost['backwards'] / each:>10.1f}{cost['seconds']:>9.1f}{used:>{7 * random}}".rstrip()
        )
        if broken := total.phases.get(stage):
            out.append(f"  broken by its parts: {', '.join(f'{part} {count}' for part, count in broken.items())}")
    return out
