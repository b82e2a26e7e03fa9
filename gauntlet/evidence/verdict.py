"""The model of `verification.json`: what an independent check of a run found. Imports no torch."""

from typing import Annotated, TypedDict

from gauntlet.evidence.manifest import Count, Name, Text
from gauntlet.evidence.typed_json import NEEDED, Length


class Verdict(TypedDict, total=False):
    """`verification.json`. Once a file that was checked changes, its digest no longer fits and the verdict is stale."""

    verified: Annotated[bool, NEEDED, "every claim was confirmed"]
    partial: Annotated[bool, "what is stored was confirmed, and there are claims beyond it"]
    records_digest: Annotated[Name, "SHA-256 of the records"]
    manifest_digest: Annotated[Name, "SHA-256 of run.json"]
    adversarial_digest: Annotated[Name, "SHA-256 of the stored examples"]
    checked: Annotated[Count, NEEDED, "stored examples that were checked"]
    claimed: Annotated[Count, 'rows that say "broken"']
    failed: Annotated[Count, NEEDED, "problems"]
    problems: Annotated[list[Text], Length(1000), "the first of them, a line each"]
    time: Annotated[Name, "ISO 8601, UTC"]
