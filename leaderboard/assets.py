"""Third-party files of the site, taken from the installed packages when the site is built."""

import re
from importlib.util import find_spec
from pathlib import Path

from gauntlet.errors import UserError

_EXPORTS = re.compile(r"export\s*\{([^{}]*)\}\s*;?")
_DEFAULT = re.compile(r"([\w$]+)\s+as\s+default")


def plotly() -> Path:
    """Return plotly.js, minified: a classic script that defines `Plotly`."""
    return _inside("plotly", "package_data/plotly.min.js")


def datatables() -> str:
    """Return DataTables with jQuery as a classic script that defines `DataTable`.

    itables ships an ES module, and browsers refuse to load module files from `file://`. So the module becomes the body
    of a function, and its export statement an assignment.
    """
    source = _inside("itables", "html/dt_bundle.js").read_text(encoding="utf-8")
    exports = list(_EXPORTS.finditer(source))
    default = _DEFAULT.search(exports[-1][1]) if exports else None
    if default is None:
        raise UserError("the installed itables ships no usable DataTables; install itables>=2.2")
    start, end = exports[-1].span()
    body = f"{source[:start]}globalThis.DataTable={default[1]};{source[end:]}"
    return f'(function(){{"use strict";{body}\n}})();\n'


def _inside(package: str, name: str) -> Path:
    """Return a file of an installed package, without importing it."""
    spec = find_spec(package)
    places = (spec.submodule_search_locations if spec else None) or []
    for place in places:
        path = Path(place) / name
        if path.is_file():
            return path
    raise UserError(f"{package} is not installed with its {name}; run: pip install --force-reinstall {package}")
