"""A user's own data set, made by a function in a file of theirs: `dataset=path/to/data.py:make`."""

from dataclasses import dataclass, field
from typing import Any

from gauntlet.data.torch_items import ItemSet
from gauntlet.errors import UserError, described
from gauntlet.system.code_file import function_of, located


@dataclass(frozen=True, kw_only=True)
class FileItems(ItemSet):
    """Items that a function in a Python file gives; see `ItemSet`.

    Args:
        source: `path/to/data.py:make`. The function is called with `train`, `validation` or `test`, and with
            `arguments`; it returns the items of that part, or None where it has none: without validation items, a fixed
            tenth of the training items is held out.
        arguments: more arguments of the function, by name.
    """

    source: str
    arguments: dict[str, Any] = field(default_factory=dict)
    name: str = "file"

    def items(self, part: str) -> Any:
        """Return the items of a part; None where there are none.

        Raises:
            UserError: no such file or function, or it fails.
        """
        path, function = located(self.source, "dataset.source")
        make = function_of(path, function)
        try:
            return make(part, **self.arguments)
        except UserError:
            raise
        except Exception as cause:
            raise UserError(
                f"{function}({part!r}) of {path} fails ({described(cause)}); fix it, or give dataset.arguments"
            ) from cause
