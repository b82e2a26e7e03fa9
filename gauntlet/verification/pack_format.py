"""One file with the evidence of a run: a ZIP archive without compression, the same bytes for the same content.

    pack.json                                  what the run is, and the size and SHA-256 of every other file
    runs/<data set>/<threat>/<...>/<hash>/...  run.json, records and adversarial examples
    runs/_trained/..., _universal/..., _sets/  what was trained, fitted or crafted for it
    weights/0.pt, ...                          files of weights that the configuration names
    images/test.safetensors                    the images that were used, where asked for

Who opens a pack trusts nothing in it: names stay below one folder, every size and digest is checked, and nothing is
compressed, so that a pack cannot grow while it is read. Imports no torch.
"""

import hashlib
import io
import json
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Any, TypedDict

from gauntlet.errors import UserError, printable, reason
from gauntlet.evidence.manifest import Count, Name, Text
from gauntlet.evidence.typed_json import NEEDED, Length, Misfit, check
from gauntlet.system.file_reader import MOST_DEPTH, check_regular

CONTENT = "pack.json"
VERSION = 1
MOST_FILES = 100_000
MOST_BYTES = 256 << 30
MOST_CONTENT = 64 << 20
BLOCK = 1 << 20
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The time of every member: the first that ZIP can say."""


class PackedData(TypedDict, total=False):
    """The data set whose images a pack holds."""

    name: Annotated[Name, NEEDED]
    classes: Annotated[Count, NEEDED]
    channels: Annotated[Count, NEEDED]
    size: Annotated[Count, NEEDED]
    budgets: Annotated[dict[str, str | float], NEEDED]
    parts: Annotated[dict[str, list[str | int]], NEEDED, "part -> digest, selection and number of images"]


class PackContent(TypedDict, total=False):
    """`pack.json`."""

    version: Annotated[int, NEEDED]
    place: Annotated[list[Name], NEEDED, Length(5, 5), "folders of the run below its runs folder"]
    command: Annotated[Text, NEEDED, "what made the run"]
    files: Annotated[dict[str, list[str | int]], NEEDED, "file -> size, SHA-256"]
    places: Annotated[dict[str, str], NEEDED, "key of the configuration -> the file or folder in the pack"]
    weights: Annotated[dict[str, Name], NEEDED, "network -> digest"]
    data: Annotated[PackedData, "of the images, where there are some"]


@dataclass(frozen=True)
class OpenedPack:
    """A pack whose files lie in a folder of their own, as long as it is open."""

    folder: Path
    content: PackContent

    @property
    def run(self) -> Path:
        """Return the folder of the run."""
        return self.folder.joinpath("runs", *self.content["place"])


def write_pack(path: Path, files: Mapping[str, Path | bytes], content: PackContent) -> None:
    """Write a pack, whole or not at all.

    Args:
        files: name in the pack -> a file, or its bytes.
        content: all of pack.json but `files`.

    Raises:
        UserError: a file cannot be read, or the pack cannot be written.
    """
    scratch = path.with_name(f".{path.name}.partial")
    parts: dict[str, list[str | int]] = {}
    try:
        with zipfile.ZipFile(scratch, "w", zipfile.ZIP_STORED) as archive:
            for name in sorted(files):
                with archive.open(_member(name), "w", force_zip64=True) as to, _opened(files[name]) as source:
                    parts[name] = _copy(source, to)
            text = json.dumps({**content, "files": parts}, indent=1, sort_keys=True) + "\n"
            archive.writestr(_member(CONTENT), text)
        scratch.replace(path)
    except OSError as cause:
        raise UserError(f"{path} cannot be written ({reason(cause)}); give another place with --out FILE") from None
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def opened_pack(path: Path) -> Iterator[OpenedPack]:
    """Give a pack with its files in a temporary folder.

    Raises:
        UserError: it is no pack, or a file in it is not what pack.json says.
    """
    check_regular(path, MOST_BYTES, "give a file that gauntlet pack made")
    with tempfile.TemporaryDirectory(prefix="gauntlet-pack-") as scratch:
        try:
            with zipfile.ZipFile(path) as archive:
                yield OpenedPack(Path(scratch), _extracted(archive, Path(scratch), path))
        except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError) as cause:
            raise UserError(f"{path} is no pack ({reason(cause)}); give a file that gauntlet pack made") from None


def _extracted(archive: zipfile.ZipFile, folder: Path, path: Path) -> PackContent:
    """Put the files of an archive below a folder; return its pack.json."""
    members = archive.infolist()
    names = [member.filename for member in members]
    odd = next((member for member in members if not _fit(member)), None)
    if odd is not None or len(set(names)) < len(names) or len(names) > MOST_FILES:
        raise _unfit(path, f"its member {odd.filename} may not be there" if odd else "members are there twice")
    content = _content(archive, path)
    if set(names) != {CONTENT, *content["files"]}:
        raise _unfit(path, "its files are not those of its pack.json")
    for member in members:
        if member.filename == CONTENT:
            continue
        to = folder.joinpath(*PurePosixPath(member.filename).parts)
        to.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(member) as source, to.open("xb") as file:
            if _copy(source, file) != content["files"][member.filename]:
                raise _unfit(path, f"{member.filename} is not the file that was packed")
    return content


def _content(archive: zipfile.ZipFile, path: Path) -> PackContent:
    try:
        member = archive.getinfo(CONTENT)
    except KeyError:
        raise _unfit(path, "it has no pack.json") from None
    if member.file_size > MOST_CONTENT:
        raise _unfit(path, "its pack.json is too large")
    try:
        found: Any = json.loads(archive.read(member).decode(), parse_constant=_refused)
        check(found, PackContent)
    except (ValueError, RecursionError, Misfit) as cause:
        raise _unfit(path, f"its pack.json: {reason(cause)[:200]}") from None
    if found["version"] != VERSION:
        raise _unfit(path, f"it is of version {found['version']}, this program reads {VERSION}")
    for name in ("/".join(found["place"]), *found["places"].values()):
        if not _stays(name):
            raise _unfit(path, f"its pack.json names {name[:80]}")
    content: PackContent = found
    return content


def _refused(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _fit(member: zipfile.ZipInfo) -> bool:
    """Return whether a member is a plain file, stored as it is, that stays below the folder it is put in."""
    kind = stat.S_IFMT(member.external_attr >> 16)
    stored = member.compress_type == zipfile.ZIP_STORED and member.file_size == member.compress_size
    return stored and kind in (0, stat.S_IFREG) and not member.flag_bits & 1 and _stays(member.filename)


def _stays(name: str) -> bool:
    parts = name.split("/")
    good = all(part not in ("", ".", "..") and part.isprintable() and len(part) < 256 for part in parts)
    return good and "\\" not in name and ":" not in name and len(parts) <= MOST_DEPTH


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, EPOCH)
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    info.create_system = 3
    return info


@contextmanager
def _opened(source: Path | bytes) -> Iterator[IO[bytes]]:
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    check_regular(source, None)
    with source.open("rb") as file:
        yield file


def _copy(source: IO[bytes], to: IO[bytes]) -> list[str | int]:
    """Copy a stream; return its size and SHA-256."""
    digest, size = hashlib.sha256(), 0
    while block := source.read(BLOCK):
        digest.update(block)
        size += len(block)
        to.write(block)
    return [size, f"sha256:{digest.hexdigest()}"]


def _unfit(path: Path, why: str) -> UserError:
    return UserError(printable(f"{path} is not opened: {why}; ask for it again from whoever packed it"))
