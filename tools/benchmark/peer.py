"""The classes of an installed mmsegmentation, which takes part where one imports."""

from importlib import import_module
from typing import Any

from nlseg.errors import UserError


def check_peer() -> None:
    """Import mmsegmentation and register its classes.

    Raises:
        UserError: It is not installed, or does not import with the installed mmcv.
    """
    try:
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
