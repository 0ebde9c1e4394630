"""The classes of an installed mmsegmentation, which takes part where one imports."""

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from nlseg.errors import UserError

OPERATORS = "mmcv._ext"


class MissingOperators(ModuleType):
    """Stands in for mmcv's compiled operators, which mmsegmentation imports and no row uses.

    With it, mmsegmentation runs on mmcv-lite. Every operator is there and raises when it is called.
    """

    def __getattr__(self, name: str) -> Any:
        """Return an operator that raises ``UserError``."""
        if name.startswith("__"):
            raise AttributeError(name)

        def raise_missing(*args: object, **kwargs: object) -> None:
            raise UserError(f"mmcv's compiled operator {name} is not in mmcv-lite")

        return raise_missing


def leave_out_operators() -> None:
    """Let mmcv's compiled operators be imported where they are not installed."""
    if OPERATORS not in sys.modules and find_spec(OPERATORS) is None:
        sys.modules[OPERATORS] = MissingOperators(OPERATORS)


def check_peer() -> None:
    """Import mmsegmentation and register its classes.

    Raises:
        UserError: It is not installed, or does not import with the installed mmcv.
    """
    try:
        import_module("mmseg")  # refuses versions of mmcv
        leave_out_operators()
        peer_attribute("utils", "register_all_modules")(init_default_scope=True)
    except (ImportError, AssertionError) as error:
        raise UserError(f"--peer: mmsegmentation does not import here: {error}") from error


def peer_attribute(module: str, name: str) -> Any:
    """Return an attribute of one of mmsegmentation's modules.

    Args:
        module: The module's name below the package's.
        name: The attribute's name.
    """
    return getattr(import_module(f"mmseg.{module}"), name)
