"""The model of `run.json`, shared by writer and readers. Imports no torch."""

from typing import Any, TypedDict

REQUIRED: dict[str, type] = {
    "status": str, "kind": str, "name": dict, "command": str, "config": dict, "config_hash": str, "victim": str,
    "threat": dict, "heads": str, "dataset": dict, "weights": dict, "card": dict, "stages": list, "chunk": int,
    "chunks": int, "device": str,
}  # fmt: skip
"""What every manifest holds from its first moment on."""


class Cost(TypedDict):
    """Totals of one stage."""

    attacked: int
    forwards: int
    backwards: int
    seconds: float


class Manifest(TypedDict, total=False):
    """`run.json`. Values are plain JSON; every digest reads `sha256:<hex>`."""

    schema_version: int
    status: str  # running | done | failed; done = every chunk is there and no row has an error
    kind: str  # attack | certificate
    name: dict[str, str]  # dataset, threat, defense, attack: the names in the path of the folder
    command: str  # what the user typed, as it can be pasted
    config: dict[str, Any]  # resolved
    config_hash: str  # of what changes the answer: the last folder of the path
    victim: str  # hash of the defense, its models and their weights: runs with the same one attack the same model
    bare: str  # randomised defenses only: hash of the defense whatever its protocol, as certificates have it
    threat: dict[str, Any]  # norm, eps (text as given, "8/255"), radius (null: unbounded), low, high
    heads: str  # declared | true (true: attacked through its deployed forward only, never ranked)
    access: str  # what the attacker was given: gradient (default) | score | decision; only the first is ever ranked
    dataset: dict[str, Any]  # name, digest, selection, samples, classes, shape
    weights: dict[str, str]  # part of the defense -> digest
    card: dict[str, Any]  # claims, extra_data, cost in forward equivalents, parameters, randomized, deviations
    stages: list[str]  # in the order in which they run, "clean" first
    coverage: str  # which samples a stage attacks: standing (default) | correct | all (see `gauntlet.evaluation.evaluation.Coverage`)
    protocol: dict[str, Any]  # rule and draws (0: exact, without draws), of a randomised defense only
    members: list[list[Any]]  # of a mixture: head and probability of each member
    draws: dict[str, dict[str, Any]]  # random heads: draws per gradient, and with how many they were found to agree
    fidelity: dict[
        str, dict[str, int]
    ]  # surrogate head -> how it does on the first clean images (`gauntlet.sanity_checks.probe`)
    sets: dict[str, dict[str, Any]]  # transfer runs: stage -> its adversarial set, and the sources crafted on
    certificate: dict[str, Any]  # certificates only: certifier, kind, confidence, and whether it saw labels
    fit: dict[str, dict[str, Any]]  # stage -> digest, file and cost of a perturbation that was fitted to train images
    chunk: int  # samples per chunk
    chunks: int
    keep: str  # which adversarial examples are stored: all | broken (default) | first N | none (see `gauntlet.evidence.example_storage`)
    seed: int
    commit: str
    dirty: bool
    versions: dict[str, str]
    device: str
    made_by: list[dict[str, Any]]  # commit, dirty, versions and device of each process that added parts
    started: str  # ISO 8601, UTC
    finished: str
    cost: dict[str, Cost]  # per stage
    flags: list[dict[str, str]]  # red flags: {"name", "detail"}
    failures: list[str]  # distinct error texts
