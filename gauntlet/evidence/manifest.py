"""The model of `run.json`, shared by writer and readers: every field, its type, its bounds and what it means.

Readers take what `parse` returns and need no check of their own. Fields that this version does not know are kept.
Imports no torch.
"""

from typing import Annotated, Any, Literal, TypedDict, cast

from gauntlet.evidence.schema import SCHEMA_VERSION
from gauntlet.evidence.typed_json import NEEDED, Bounds, Length, Misfit, Pattern, check

Name = Annotated[str, Length(1000)]
Text = Annotated[str, Length(100_000)]
Count = Annotated[int, Bounds(0, 2**53)]
Number = Annotated[float, Bounds(-1e300, 1e300)]
Seconds = Annotated[float, Bounds(0, 1e12)]
Share = Annotated[float, Bounds(0, 1)]

MOST_CHUNKS = 10**6
MOST_SAMPLES = 10**9


class Cost(TypedDict):
    """Totals of one stage."""

    attacked: Annotated[Count, "samples that the stage attacked"]
    forwards: Annotated[Count, "forward passes of the defended pipeline"]
    backwards: Annotated[Count, "backward passes"]
    seconds: Annotated[Seconds, "wall time, summed over the processes"]


class FlagRecord(TypedDict, total=False):
    """A red flag."""

    name: Annotated[Name, NEEDED, "of the table in docs/evidence.md"]
    detail: Annotated[Text, "what was measured"]


class Origin(TypedDict, total=False):
    """The code that added parts."""

    commit: Annotated[Name | None, "of the checkout, empty where it is installed"]
    dirty: Annotated[bool | None, "whether the checkout had changes"]
    versions: Annotated[dict[str, Name] | None, "of Python and the libraries"]
    device: Annotated[Name | None, "as `device` of the run"]


class RunNames(TypedDict, total=False):
    """The names in the path of the folder, and of the model."""

    dataset: Annotated[Name, "of the data set"]
    threat: Annotated[Name, "norm and eps"]
    defense: Annotated[Name, NEEDED, "of the defense"]
    attack: Annotated[Name, "of the attack; of the kind attack"]
    certifier: Annotated[Name, "of the certifier; of the kind certificate"]
    model: Annotated[Name, "of the network that is defended"]


class ThreatFacts(TypedDict, total=False):
    """The threat model."""

    norm: Annotated[Name, NEEDED, "linf, l2, l1 or l0; or patch, spatial or color"]
    eps: Annotated[Name, 'as it was given, such as "8/255"']
    radius: Annotated[float | None, NEEDED, Bounds(5e-324, 1e300), "eps as a number; null: unbounded"]
    low: Annotated[Number, "the least that a pixel may be"]
    high: Annotated[Number, "the most that a pixel may be"]
    target: Annotated[Name, "of a targeted attack: how the target of each image was chosen"]
    count: Annotated[int, Bounds(1, 3), "of patches: how many, where it is not one"]
    aspect: Annotated[Number, "of patches: height over width, where they are no squares"]
    rotation: Annotated[Number, "of a spatial threat: its limit at eps 1, in degrees"]
    translation: Annotated[Number, "of a spatial threat: its limit at eps 1, as a share of height and width"]
    hue: Annotated[Number, "of a color threat: its limit at eps 1, in turns"]
    saturation: Annotated[Number, "of a color threat: its limit at eps 1"]
    row: Annotated[Count, "of a patch whose place is given: of its upper left pixel"]
    column: Annotated[Count, "of a patch whose place is given: of its upper left pixel"]


class DataFacts(TypedDict, total=False):
    """The images that the run is about."""

    name: Annotated[Name, NEEDED, "of the data set"]
    digest: Annotated[Name, NEEDED, "of all images and labels of the split"]
    selection: Annotated[Name, NEEDED, '"all", or the digest of the ids that were chosen']
    samples: Annotated[int, NEEDED, Bounds(1, MOST_SAMPLES), "images chosen"]
    classes: Annotated[int, Bounds(1, 2**31), "labels are below"]
    class_names: Annotated[list[Name], Length(100_000), "name of each class, where they have names"]
    train: Annotated[Name, "digest of the training images that a universal perturbation is fitted to"]
    targets: Annotated[Name, "digest of the targets, where the data set says them"]
    labels: Annotated[Name, '"predicted": the data set has none, and they are the predictions of the defense']


class StopFacts(TypedDict, total=False):
    """A run that might end before its last image; where `images` is less than `of` it did."""

    interval: Annotated[Share, NEEDED, "half of the width of the interval that is enough"]
    low: Annotated[Share, NEEDED, "its lower end, which holds however often one looked"]
    high: Annotated[Share, NEEDED, "its upper end"]
    images: Annotated[int, NEEDED, Bounds(1, MOST_SAMPLES), "attacked: the first of the random order"]
    of: Annotated[int, NEEDED, Bounds(1, MOST_SAMPLES), "images chosen"]


class CertificateFacts(TypedDict, total=False):
    """What a certifier promises."""

    kind: Annotated[Name, NEEDED, "sound_prob, sound_det, estimate or claimed"]
    confidence: Annotated[Share, "of each certificate by itself"]
    sees_label: Annotated[bool, "whether it was given the labels"]
    origin: Annotated[Name, "who claims it, of the kind claimed"]


class ProtocolFacts(TypedDict, total=False):
    """How the predictions of a randomized defense are counted."""

    rule: Annotated[Literal["expected", "vote", "fixed"], NEEDED, "what counts"]
    draws: Annotated[Count, "for each verdict; 0: exact, without draws"]
    alpha: Annotated[Share, "error probability of a vote; 1, a plain majority, where it is missing"]


class NetworkFacts(TypedDict, total=False):
    """What a network of the defense is."""

    architecture: Annotated[Name, "its class, and the file that defines it"]
    parameters: Annotated[Count, "its own"]
    source: Annotated[Text, "where its weights come from"]
    loaded: Annotated[list[Text], "what of a file was loaded, renamed and left out"]
    preprocessing: Annotated[Text, "what happens to pixels before its first layer"]


class Description(TypedDict, total=False):
    """What the user says of the model: free text, without effect on the result."""

    paper: Annotated[Text, "that describes it"]
    authors: Annotated[Text, "of the model"]
    link: Annotated[Text, "to it"]
    extra_data: Annotated[Text, "that it was trained on"]


class CardFacts(TypedDict, total=False):
    """The card of the defense; it may have more texts."""

    summary: Annotated[Text, "one sentence"]
    source: Annotated[Text, "paper and arXiv id"]
    claim: Annotated[Text, "what its authors claim"]
    differs: Annotated[Text, "in what it is not the published defense"]
    certificate: Annotated[Text, "what certifies its predictions"]
    forwards: Annotated[float, Bounds(0, 1e12), "cost of a prediction in passes of one base network"]
    randomized: Annotated[bool, "whether predictions are random"]
    parameters: Annotated[Count, "of all its networks"]


class Manifest(TypedDict, total=False):
    """`run.json`. Digests read `sha256:<hex>`. `NEEDED` is what every run holds from its first moment on."""

    schema_version: Annotated[int, NEEDED, "of the records and of this file"]
    status: Annotated[
        Literal["running", "done", "failed"], NEEDED, "done: every chunk is there and no row has an error"
    ]
    kind: Annotated[Name, NEEDED, "attack or certificate"]
    name: Annotated[RunNames, NEEDED, "the names in the path of the folder"]
    command: Annotated[Text, NEEDED, "what the user typed, as it can be pasted"]
    config: Annotated[dict[str, Any], NEEDED, "the resolved configuration, components by their stable names"]
    config_hash: Annotated[Name, NEEDED, "of what changes the answer: the last folder of the path"]
    victim: Annotated[Name, NEEDED, "hash of the defense, its models and their weights"]
    bare: Annotated[Name, "hash of a randomized defense whatever its protocol, as certificates have it"]
    threat: Annotated[ThreatFacts, NEEDED, "what the attacker may change"]
    heads: Annotated[Name, NEEDED, "which heads were attacked; only all that are declared are ranked"]
    access: Annotated[Name, "what the attacker was given: gradient (default), score, decision or transfer"]
    dataset: Annotated[DataFacts, NEEDED, "the images"]
    weights: Annotated[dict[str, Name], NEEDED, "network of the defense -> digest"]
    networks: Annotated[dict[str, NetworkFacts], "network of the defense -> what it is"]
    description: Annotated[Description, "what the user says of the model"]
    card: Annotated[CardFacts, NEEDED, "what the defense says of itself"]
    stages: Annotated[list[Name], NEEDED, Length(100_000), 'in the order in which they run, "clean" first']
    coverage: Annotated[Literal["standing", "correct", "all"], "which samples a stage attacks (standing: survivors)"]
    revisions: Annotated[
        dict[str, Annotated[int, Bounds(2, 2**31)]], "place of an attack -> its version, from the second"
    ]
    replaced: Annotated[dict[str, Name], "knob of a stage -> its value here, as the classes are too few for its own"]
    protocol: Annotated[ProtocolFacts, "of a randomized defense only"]
    members: Annotated[
        list[Annotated[list[str | float], Length(2, 2)]], "of a mixture: head and probability of each member"
    ]
    draws: Annotated[dict[str, dict[str, Any]], "random heads: draws per gradient, and with how many they agree"]
    fidelity: Annotated[dict[str, dict[str, Count]], "surrogate head -> how it does on the first clean images"]
    sets: Annotated[dict[str, dict[str, Any]], "transfer runs: stage -> its adversarial set and the sources"]
    certificate: Annotated[CertificateFacts, "of the kind certificate only"]
    fit: Annotated[dict[str, dict[str, Any]], "stage -> digest, file and cost of its universal perturbation"]
    chunk: Annotated[int, NEEDED, Bounds(1, MOST_SAMPLES), "samples of a chunk"]
    chunks: Annotated[int, NEEDED, Bounds(1, MOST_CHUNKS), "in all"]
    keep: Annotated[
        str, Pattern(r"all|broken|none|first [1-9][0-9]{0,17}", "all, broken, first N or none"),
        "which adversarial examples are stored; broken where it is missing",
    ]  # fmt: skip
    seed: Annotated[int, Bounds(-(2**63), 2**64), "of every draw"]
    commit: Annotated[Name, "of the checkout that began the run"]
    dirty: Annotated[bool, "whether that checkout had changes"]
    versions: Annotated[dict[str, Name], "of Python and the libraries"]
    device: Annotated[Name, NEEDED, "what computed"]
    made_by: Annotated[list[Origin], "each code and device that added parts"]
    started: Annotated[Name, "ISO 8601, UTC"]
    finished: Annotated[Name, "ISO 8601, UTC"]
    cost: Annotated[dict[str, Cost], "stage -> its totals"]
    flags: Annotated[list[FlagRecord], "red flags"]
    failures: Annotated[list[Text], "distinct error texts"]
    stop_when: Annotated[StopFacts, "of a run that looked whether its interval was narrow enough"]
    result: Annotated[Name, "its one number, as status shows it, of a run whose chunks are all there"]


def parse(content: Any) -> Manifest:
    """Return the content of a `run.json` as what it is to be.

    Raises:
        Misfit: in words, where it is something else; the field is named.
    """
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise Misfit(f"it has schema version {str(version)[:20]}, this program reads {SCHEMA_VERSION}")
    check(content, Manifest)
    return cast(Manifest, content)
