"""The folder of the site: written beside the old one, then swapped in whole; files of others are kept."""

import shutil
from pathlib import Path, PurePosixPath
from types import TracebackType

from gauntlet.errors import UserError, reason

LIST = "files.txt"
"""Names every file of the site; a folder without it is not ours."""


class Site:
    """Writes the files of one build into a folder beside the site, which takes its place when all is written.

    Use it in a `with` block: the site changes at the end of the block, and not at all where that raises.

    Raises:
        UserError: the folder holds other things, or cannot be written.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        place = out.resolve()
        self._place = place
        self._new = place.with_name(f".{place.name}.new")
        self._old = place.with_name(f".{place.name}.old")
        self._written: set[str] = {LIST}
        try:
            if self._old.exists() and not place.exists():  # a build was killed between the two renames
                self._old.rename(place)
            self._before = self._claim()
            for left in (self._new, self._old):
                shutil.rmtree(left, ignore_errors=True)
            self._new.mkdir(parents=True)
        except OSError as cause:
            raise self._refusal(cause) from None

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, kind: type[BaseException] | None, cause: BaseException | None, _: TracebackType | None) -> None:
        try:
            if kind is None:
                self._finish()
        except OSError as failure:
            raise self._refusal(failure) from None
        finally:
            shutil.rmtree(self._new, ignore_errors=True)

    def write(self, name: str, content: str | bytes) -> None:
        """Write one file; name: its path in the site, with forward slashes."""
        data = content.encode(errors="replace") if isinstance(content, str) else content
        try:
            self._path(name).write_bytes(data)
        except OSError as cause:
            raise self._refusal(cause) from None

    def _finish(self) -> None:
        """List what there is, take over what others have put into the folder, and swap."""
        self.write(LIST, "".join(f"{name}\n" for name in sorted(self._written)))
        for path in sorted(self._place.rglob("*")) if self._place.exists() else ():
            name = path.relative_to(self._place).as_posix()
            if not path.is_dir() and name not in self._before | self._written:
                shutil.copy2(path, self._path(name), follow_symlinks=False)
        if self._place.exists():
            self._place.rename(self._old)
        try:
            self._new.rename(self._place)
        except OSError:
            if self._old.exists():
                self._old.rename(self._place)
            raise
        shutil.rmtree(self._old, ignore_errors=True)

    def _claim(self) -> set[str]:
        """Return the files of the last build. Raises UserError where the folder is somebody else's."""
        listing = self._place / LIST
        if listing.is_file():
            names = {PurePosixPath(line) for line in listing.read_text().splitlines() if line}
            return {str(name) for name in names}
        if self._place.exists() and (not self._place.is_dir() or any(self._place.iterdir())):
            raise UserError(f"{self.out} is there and is not a board; choose an empty or new folder with --out DIR")
        return set()

    def _path(self, name: str) -> Path:
        self._written.add(name)
        path = self._new / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _refusal(self, cause: OSError) -> UserError:
        return UserError(f"cannot write {self.out} ({reason(cause)}); choose another folder with --out DIR")
