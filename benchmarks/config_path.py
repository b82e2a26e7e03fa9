"""The way of the configuration to the loop: `python benchmarks/config_path.py [--nodes] ROOT [option ...]`.

A function carries the configuration where one of its arguments is a node of it, a mapping that is one as plain values
(it has a `_target_`) or holds the whole (a manifest), or an object of the project that holds one, itself or in what it
holds. Who reads along goes from one such function to the next one that is entered, or that is come back to; properties
are not gone to. A stay is a stretch of the way within one file; a stay in a file that was read before is a return. Each
step from one function to another counts once, however many nodes of the configuration take it. Counted from the
function that Hydra calls to the first chunk.

With `--nodes`, plain values and manifests are left out. ROOT is a checkout, of this version or of 0.1.0; the options
are those of run.py.
"""

import json
import os
import runpy
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

DEPTH = 4
"""Objects within objects that are searched for the configuration."""

PLAIN = "--nodes" not in sys.argv
"""Whether plain values count."""

LOOP = {"evaluate_chunk", "chunk"}
"""The function that evaluates a chunk: of this version, and the method of 0.1.0."""


class ConfigPath:
    """Notes stays while it is the profiler of a thread."""

    def __init__(self, root: Path) -> None:
        self.root, self.files = str(root), dict[str, str]()
        self.steps: dict[tuple[str, str, str, str], None] = {}
        self.carrying: list[FrameType] = []
        self.last = ("", "")
        self.begun = False

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """Take in a call or a return."""
        if event not in ("call", "return"):
            return
        file = self._file(frame.f_code.co_filename)
        if not file:
            return
        if event == "return":
            if self.carrying and self.carrying[-1] is frame:
                self.carrying.pop()
                if self.carrying:
                    self._note(self.carrying[-1])
            return
        if (
            self.begun
            and frame.f_code.co_name in LOOP
            and file.endswith(("evaluation/chunk.py", "harness/evaluate.py"))
        ):
            sys.setprofile(None)
            return
        code = frame.f_code
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        self.begun = self.begun or (names[:1] == ("cfg",) and code.co_name in ("job", "main"))
        if self.begun and not is_property(frame) and any(holds(frame.f_locals.get(name), DEPTH) for name in names):
            self.carrying.append(frame)
            self._note(frame)

    def _file(self, name: str) -> str:
        """Return the path of a file of the project within it; empty for any other."""
        if name not in self.files:
            real = os.path.realpath(name)
            ours = real.startswith(f"{self.root}/") and "/.venv/" not in real
            self.files[name] = real.removeprefix(f"{self.root}/") if ours else ""
        return self.files[name]

    def _note(self, frame: FrameType) -> None:
        here = self._file(frame.f_code.co_filename), frame.f_code.co_qualname
        if here != self.last:
            self.steps[(*self.last, *here)] = None
        self.last = here

    @property
    def stays(self) -> list[str]:
        """Return the file of each stay, in order."""
        return [to for (fro, _, to, _) in self.steps if to != fro]


def is_property(frame: FrameType) -> bool:
    """Return whether a function is a property, which is read as a word and not gone to."""
    owner = type(frame.f_locals.get("self"))
    return isinstance(getattr(owner, frame.f_code.co_name, None), property)


def holds(value: Any, depth: int) -> bool:
    """Return whether a value is a node of a configuration, or an object of the project that holds one."""
    from omegaconf import Container

    if isinstance(value, Container):
        return True
    if PLAIN and isinstance(value, dict) and ("_target_" in value or "config" in value):
        return True
    ours = type(value).__module__.split(".")[0] in ("gauntlet", "harness", "attacks", "defenses", "training", "models")
    return ours and depth > 0 and any(holds(each, depth - 1) for each in getattr(value, "__dict__", {}).values())


def main() -> None:
    """Run, and print the count."""
    first, *options = [word for word in sys.argv[1:] if word != "--nodes"]
    root = Path(first).resolve()
    os.chdir(tempfile.mkdtemp())
    sys.path[0] = str(root)  # in place of the folder of this file
    sys.argv = [str(root / "run.py"), *options, "dataset.limit=16", "runtime.progress=false", "runs_dir=runs"]
    path = ConfigPath(root)
    sys.setprofile(path)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit:
        pass
    finally:
        sys.setprofile(None)
    files = list(dict.fromkeys(path.stays))
    counts = {
        "stays": len(path.stays), "files": len(files), "returns": len(path.stays) - len(files),
        "functions": len({step[2:] for step in path.steps}),
    }  # fmt: skip
    sys.stdout.write("\n".join(path.stays) + "\n" + json.dumps(counts) + "\n")


if __name__ == "__main__":
    main()
