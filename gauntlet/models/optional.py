"""Import a package that only some models need."""

import importlib
import warnings
from types import ModuleType

from gauntlet.errors import UserError, described


def needed(package: str, choice: str, extra: str) -> ModuleType:
    """Return a package that is not part of the usual installation.

    Args:
        package: to import.
        choice: the model that needs it, for the message.
        extra: of this distribution, which installs it.

    Raises:
        UserError: it is not installed, or cannot be imported.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(package)
    except ModuleNotFoundError as cause:
        if cause.name == package:
            raise UserError(
                f"model={choice} needs {package}, which is not installed: pip install 'gauntlet-robustness[{extra}]'"
            ) from None
        raise UserError(
            f"model={choice}: {package} cannot be imported ({described(cause)}); install that too"
        ) from None
    except Exception as cause:  # a package that does not go with the versions that are here
        raise UserError(
            f"model={choice}: {package} cannot be imported ({described(cause)}); install a version that goes with the "
            "other packages"
        ) from None
