"""The papers behind a run: `gauntlet cite RUN`. BibTeX entries of every method that its configuration names.

A class names its sources in its docstring by arXiv identifiers; their entries lie in `references.bib`. Classes are read
as text, so that nothing of a run is imported. What a user's own classes are based on is theirs to cite.
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gauntlet.errors import UserError
from gauntlet.evidence.run_folder import find_runs
from gauntlet.evidence.stable_names import from_record

ENTRY = re.compile(r"^@\w+\{(?P<key>[^,]+),\n(?P<body>.*?)^\}", re.MULTILINE | re.DOTALL)
IDENTIFIER = re.compile(r"\b(\d{4}\.\d{4,5})\b")
PACKAGE = Path(__file__).parents[1]


def entries() -> dict[str, str]:
    """Return the BibTeX entry of each arXiv identifier, and of each class name that an entry has as its keyword."""
    text = (PACKAGE / "commands" / "references.bib").read_text(encoding="utf-8")
    found = {}
    for match in ENTRY.finditer(text):
        for field in ("eprint", "keywords"):
            value = re.search(rf"^  {field} = \{{(.*)\}},$", match["body"], re.MULTILINE)
            if value:
                found[value[1]] = match[0]
    return found


def sources(place: str) -> list[str]:
    """Return what a class of ours is based on: arXiv identifiers, or its own name where an entry has it as keyword.

    Its docstring counts, else that of its file, else all of its file. Empty for a class that is not ours.
    """
    module, _, name = place.rpartition(".")
    parts = module.split(".")
    path = PACKAGE.joinpath(*parts[1:]).with_suffix(".py")
    if parts[0] != PACKAGE.name or not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    own = [node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name]
    texts = [*(ast.get_docstring(node) or "" for node in own), ast.get_docstring(tree) or "", text]
    named = next((found for each in texts if (found := IDENTIFIER.findall(each))), [])
    return [*([name] if name in entries() else []), *dict.fromkeys(named)]


def places(config: Any) -> Iterator[str]:
    """Yield the place of every class that a configuration names, in its order."""
    if isinstance(config, dict):
        if isinstance(config.get("_target_"), str):
            yield config["_target_"]
        for value in config.values():
            yield from places(value)
    elif isinstance(config, list):
        for value in config:
            yield from places(value)


def main(arguments: list[str] | None = None) -> int:
    """Print the BibTeX entries of the methods that the runs below the given folders use; 1 where there is no run."""
    parser = argparse.ArgumentParser(prog="gauntlet cite", description="BibTeX entries of the methods of runs.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run folder, or a folder of runs")
    options = parser.parse_args(arguments)
    known, used, foreign = entries(), dict[str, str](), dict[str, None]()
    try:
        for folder in options.runs:
            runs = find_runs(folder) if folder.is_dir() else []
            if not runs:
                raise UserError(f"there is no run in {folder}")
            for run in runs:
                for place in places(from_record(run.manifest()["config"])):
                    if not place.startswith(f"{PACKAGE.name}."):
                        foreign[place] = None
                    used |= {source: known[source] for source in sources(place) if source in known}
    except UserError as cause:
        sys.stderr.write(f"error: {cause}\n")
        return 1
    sys.stdout.write("\n\n".join(dict.fromkeys(used.values())) + "\n")
    for place in foreign:
        sys.stderr.write(f"not ours, cite its source yourself: {place}\n")
    return 0
