"""What the site takes from outside docs/: the measurements of benchmarks/, with links that hold in both places."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
TAKEN = ("benchmarks/**/*.md", "benchmarks/**/*.svg")
OUTSIDE = re.compile(r"\[([^\]]*)\]\((?:\.\./)+(?:gauntlet|conf|tests|runs)/[^)]*\)")
"""Links to files that are no pages: the site shows their text alone."""


def on_files(files: Files, config: Any) -> Files:
    """Add the measurements as pages below benchmarks/."""
    for pattern in TAKEN:
        for path in sorted(ROOT.glob(pattern)):
            place = path.relative_to(ROOT).as_posix()
            if path.suffix == ".md":
                text = OUTSIDE.sub(r"\1", path.read_text()).replace("../docs/", "../")
                files.append(File.generated(config, place, content=text))
            else:
                files.append(File.generated(config, place, content=path.read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return a page of docs/ whose links out of it hold within the site."""
    if page.file.src_uri.startswith("benchmarks/"):
        return markdown
    return re.sub(r"\]\(((?:\.\./)*)\.\./benchmarks/", r"](\1benchmarks/", OUTSIDE.sub(r"\1", markdown))
