"""The model of `verification.json`: what an independent check of a run found. Imports no torch."""

from typing import Annotated, TypedDict

from gauntlet.evidence.manifest import Count, Name, Text
from gauntlet.evidence.typed_json import NEEDED, Length


class Verdict(TypedDict, total=False):
    """`verification.json`. Once a file that was checked changes, its digest no longer fits and the verdict is stale."""

    verified: Annotated[bool, NEEDED, "every claim was confirmed"]
    partial: Annotated[bool, "what is stored was confirmed, and there are claims beyond it"]
    level: Annotated[Name, "examples (of certificates: counts), replayed k of n, or full"]
    replayed: Annotated[Count, "samples that were re-run"]
    total: Annotated[Count, "samples that the attack, or the certifier, was run on"]
    nonce: Annotated[Name, "which decides, with the digest of the records, what was re-run"]
    chance: Annotated[Text, "with which probability changed rows would have been missed"]
    records_digest: Annotated[Name, "SHA-256 of the records"]
    manifest_digest: Annotated[Name, "SHA-256 of run.json"]
    adversarial_digest: Annotated[Name, "SHA-256 of the stored examples"]
    checked: Annotated[Count, NEEDED, "stored examples, or certificates, that were checked"]
    claimed: Annotated[Count, 'rows that say "broken", or certificates of a radius above 0']
    failed: Annotated[Count, NEEDED, "problems"]
    problems: Annotated[list[Text], Length(1000), "the first of them, a line each"]
    notes: Annotated[list[Text], Length(1000), "what was taken as it is, a line each"]
    time: Annotated[Name, "ISO 8601, UTC"]
    versions: Annotated[dict[str, Name], "of Python and the libraries of the one who verified"]
    seal: Annotated[Name, "by the key of the one who verified, over all else"]
