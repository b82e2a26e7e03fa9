"""The folder that the site is written to: nothing of somebody else's is overwritten, nothing stale is left."""

import shutil
from pathlib import Path, PurePosixPath

from gauntlet.errors import UserError

LIST = "files.txt"
"""Names every file of the site; a folder without it is not ours."""


class Site:
    """Writes the files of one build.

    Raises:
        UserError: the folder holds other things, or cannot be written.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._written: set[str] = {LIST}
        try:
            self._before = self._claim()
        except OSError as cause:
            raise self._refusal(cause) from None

    def write(self, name: str, content: str | bytes) -> None:
        """Write one file; name: its path in the site, with forward slashes."""
        data = content.encode() if isinstance(content, str) else content
        try:
            self._place(name).write_bytes(data)
        except OSError as cause:
            raise self._refusal(cause) from None

    def copy(self, name: str, source: Path) -> None:
        try:
            shutil.copyfile(source, self._place(name))
        except OSError as cause:
            raise self._refusal(cause) from None

    def finish(self) -> None:
        """Remove what an earlier build left and this one did not write, then list what there is."""
        try:
            for name in sorted(self._before - self._written):
                path = self.out / name
                path.unlink(missing_ok=True)
                if path.parent != self.out and path.parent.is_dir() and not any(path.parent.iterdir()):
                    path.parent.rmdir()
        except OSError as cause:
            raise self._refusal(cause) from None
        self.write(LIST, "".join(f"{name}\n" for name in sorted(self._written)))

    def _claim(self) -> set[str]:
        listing = self.out / LIST
        if listing.is_file():
            names = {PurePosixPath(line) for line in listing.read_text().splitlines() if line}
            return {str(name) for name in names if not name.is_absolute() and ".." not in name.parts}
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise UserError(f"{self.out} is there and is not a board; choose an empty or new folder with --out DIR")
        self.out.mkdir(parents=True, exist_ok=True)
        listing.write_text("")  # from here on the folder is ours, even if the build is cut short
        return set()

    def _place(self, name: str) -> Path:
        self._written.add(name)
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _refusal(self, cause: OSError) -> UserError:
        reason = cause.strerror or type(cause).__name__
        return UserError(f"cannot write {self.out} ({reason}); choose another folder with --out DIR")
