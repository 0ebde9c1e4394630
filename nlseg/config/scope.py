"""OpenMMLab's names for what nlseg holds: the scope ``mmseg`` becomes ``nlseg``."""

from typing import Any

from nlseg.registry import FOREIGN_SCOPE, SCOPE

FOREIGN_SCOPES = (FOREIGN_SCOPE, "mmcv")


def rename_scope(value: Any) -> Any:
    """Replace the scope ``mmseg`` wherever a config names it.

    That is ``default_scope='mmseg'``, ``_scope_='mmseg'``, types such as ``mmseg.NLHead``, and
    modules of mmseg under ``custom_imports``, which are left out: the registries of nlseg import
    what they need. Classes that a config imports (``from mmseg.models import NLHead``) are looked
    up by their own names, so that nlseg's come before OpenMMLab's; a lazy config may therefore say
    ``default_scope=None``, which means nlseg here.

    Args:
        value: A config dict or any part of one; it is not changed.

    Returns:
        The same structure with the names of nlseg.
    """
    if isinstance(value, dict):
        return {key: _rename_entry(key, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(rename_scope(item) for item in value)
    return value


def _rename_entry(key: Any, value: Any) -> Any:
    if key in ("default_scope", "_scope_") and value == FOREIGN_SCOPE:
        return SCOPE
    if key == "default_scope" and value is None:
        return SCOPE
    if key in ("type", "resize_type") and isinstance(value, str) and _is_renamed(value):
        return value.rpartition(".")[2]
    if key == "custom_imports" and isinstance(value, dict):
        return {**value, "imports": [name for name in _names(value) if not is_foreign(name)]}
    return rename_scope(value)


def _is_renamed(kind: str) -> bool:
    """Return whether a type is ``mmseg.Name`` or an imported class of OpenMMLab or nlseg."""
    parts = kind.split(".")
    return (len(parts) == 2 and parts[0] in FOREIGN_SCOPES) or (
        len(parts) > 2 and parts[0] in (*FOREIGN_SCOPES, "mmengine", SCOPE)
    )


def _names(custom_imports: dict[str, Any]) -> list[str]:
    imports = custom_imports.get("imports", [])
    return [imports] if isinstance(imports, str) else list(imports or [])


def is_foreign(module: str) -> bool:
    """Return whether a dotted module name belongs to mmsegmentation."""
    return module.split(".")[0] == FOREIGN_SCOPE
