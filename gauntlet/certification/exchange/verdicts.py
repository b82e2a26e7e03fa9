"""Answers of other verifiers: the table of a VNN-COMP run, `results.csv`, and the counterexamples beside it."""

import csv
import gzip
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gauntlet.certification.exchange.vnnlib import counterexample
from gauntlet.errors import UserError, printable, reason
from gauntlet.evidence.digest import digest_of
from gauntlet.system.file_reader import read_regular

Word = Literal["proven", "violated", "open"]

WORDS: dict[str, Word] = {
    **dict.fromkeys(("unsat", "holds", "verified", "safe", "safe-incomplete"), "proven"),
    **dict.fromkeys(("sat", "violated", "falsified", "unsafe", "unsafe-pgd", "unsafe-bab"), "violated"),
    **dict.fromkeys(("timeout", "run_instance_timeout", "unknown", "error", "no_result_in_file"), "open"),
}
"""What verifiers write -> what it means: no counterexample exists, here is one, neither is known."""

MOST_BYTES = 256 << 20
"""Of a table or a counterexample."""

_NAME = re.compile(r"([0-9a-f]{12})_(\d+)\.vnnlib(?:\.gz)?$")


def question_key(manifest: Mapping[str, Any]) -> str:
    """Return what files about one model, data set and threat begin with; the same of every run on them."""
    return digest_of([manifest["victim"], manifest["dataset"]["digest"], manifest["threat"]])


def property_name(key: str, sample: int) -> str:
    """Return the name of the file that asks about a sample."""
    return f"{key}_{sample}.vnnlib"


@dataclass(frozen=True, eq=False)
class Answer:
    """What a verifier says of one sample; image: its counterexample, float64 [pixels], None where there is none."""

    sample: int
    word: Word
    image: NDArray[np.float64] | None = None


def read_results(path: Path, key: str, pixels: int) -> list[Answer]:
    """Return the answers of a table, in its order.

    A row names a property that was exported here, an answer of `WORDS`, and perhaps a file with the counterexample; the
    order of the columns, further ones and a first line of headings do not matter. A counterexample that no column names
    is looked for beside the table, and in a folder `counterexamples` there.

    Args:
        path: of the table; columns are separated by commas.
        key: of the model, data set and threat that it must be about.
        pixels: that the network reads.

    Raises:
        UserError: a line is about something else, cannot be read, or contradicts another.
    """
    try:
        text = read_regular(path, MOST_BYTES, "give the results.csv of a verifier").decode()
    except FileNotFoundError:
        raise UserError(f"there is no file {printable(path)}; give the results.csv of a verifier") from None
    except UnicodeDecodeError:
        raise UserError(f"{printable(path)} is no text; give the results.csv of a verifier") from None
    found: dict[int, Answer] = {}
    for number, row in enumerate(csv.reader(io.StringIO(text)), 1):
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        try:
            answer = _answer(path.parent, cells, key, pixels)
        except UserError as cause:
            raise UserError(f"{printable(path)}, line {number}: {cause}") from None
        if answer is None:
            if number > 1:
                raise UserError(f"{printable(path)}, line {number} names no .vnnlib file")
            continue
        before = found.setdefault(answer.sample, answer)
        if before.word != answer.word:
            raise UserError(
                f"{printable(path)}, line {number}: sample {answer.sample} is {before.word} in another line"
            )
    if not found:
        raise UserError(f"{printable(path)} answers nothing; its lines name .vnnlib files and an answer such as unsat")
    return list(found.values())


def _answer(folder: Path, cells: Sequence[str], key: str, pixels: int) -> Answer | None:
    """Return what a line says; None where it names no property."""
    asked = next((cell for cell in cells if re.search(r"\.vnnlib(\.gz)?$", cell)), None)
    if asked is None:
        return None
    match = _NAME.search(asked)
    if match is None or match[1] != key:
        raise UserError(f"{printable(asked)} asks about another model, data set or threat; export the run again")
    said = [WORDS[cell.lower()] for cell in cells if cell.lower() in WORDS]
    if len(set(said)) != 1:
        raise UserError(f"it gives {'two answers' if said else 'no answer'}; one of {', '.join(WORDS)} is needed")
    sample = int(match[2])
    if said[0] != "violated":
        return Answer(sample, said[0])
    files = [path for path in _counterexamples(folder, cells, asked) if path.is_file()]
    if not files:
        raise UserError(
            f"there is no counterexample of sample {sample}; put it beside the table as "
            f"{Path(asked).name.removesuffix('.gz').removesuffix('.vnnlib')}.counterexample"
        )
    return Answer(sample, "violated", _image(files[0], pixels))


def _counterexamples(folder: Path, cells: Sequence[str], asked: str) -> Iterator[Path]:
    """Yield the files in which a counterexample may be, the first that is there counts."""
    for cell in cells:
        if re.search(r"\.(counterexample|txt|out|cex)(\.gz)?$", cell):
            yield folder / cell
    stem = Path(asked).name.removesuffix(".gz").removesuffix(".vnnlib")
    networks = [Path(cell).name.removesuffix(".gz").removesuffix(".onnx") for cell in cells if ".onnx" in cell]
    for place in (folder, folder / "counterexamples"):
        for name in (stem, *(f"{network}_{stem}" for network in networks)):
            for ending in (".counterexample", ".counterexample.gz", ".txt"):
                yield place / f"{name}{ending}"


def _image(path: Path, pixels: int) -> NDArray[np.float64]:
    try:
        raw = read_regular(path, MOST_BYTES, "give a text")
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
        return counterexample(text, pixels)
    except (OSError, EOFError, UnicodeDecodeError) as cause:
        raise UserError(f"{printable(path)} cannot be read ({reason(cause)})") from None
    except UserError as cause:
        raise UserError(f"{printable(path)}: {cause}") from None
