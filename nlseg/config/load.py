"""Reading a config file with its bases, and laying overrides over it."""

import importlib
import logging
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import mmengine.registry
from mmengine.config import Config
from mmengine.config.config import RESERVED_KEYS

import nlseg.registry
from nlseg.config.marked import FILE
from nlseg.config.origin import FileNode, Origin, Trace, shown
from nlseg.config.overrides import apply_overrides
from nlseg.config.published import find_config
from nlseg.config.read import read_files
from nlseg.config.runner_keys import OLD_KEYS
from nlseg.config.scope import rename_scope
from nlseg.config.text import ReadableConfig
from nlseg.errors import ConfigError, UserError
from nlseg.registry import FOREIGN_SCOPE
from nlseg.weights.hub import fetch_config, is_on_the_hub

LOGGER = logging.getLogger("nlseg.config")
TRACE = "_nlseg_trace"
_TAKEN = re.compile(r"(\S+) is already registered in (.+) at (\S+)")
"""What mmengine says of a name that a registry holds already."""


def load_config(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    check: bool = True,
    allow_unknown: bool = False,
    together: bool = True,
) -> Config:
    """Read a config file, resolve its ``_base_`` files, apply overrides and check the result.

    Python files (with ``_base_`` or ``read_base``), JSON and YAML are read; YAML only as data. A
    config written for mmsegmentation is renamed on the way. ``custom_imports`` are imported.

    Args:
        path: The config file, the bare name of a published config, or ``hf://OWNER/NAME`` for the
            ``config.json`` of a repository on the Hugging Face Hub.
        overrides: ``key=value`` strings as ``--cfg-options`` takes them.
        check: Compare every name and value with the classes that the config names, and the parts
            with each other. Warnings are logged. Without it nothing of the toolkit is imported.
        allow_unknown: Accept top-level keys that no part of a run reads.
        together: Whether the check compares the parts with each other; a network alone needs not
            fit the data sets.

    Returns:
        The resolved config.

    Raises:
        ConfigError: The file cannot be read, an override does not fit, or the check finds errors,
            all of which are told at once.
    """
    if is_on_the_hub(path):
        path, allow_unknown = fetch_config(str(path)), True  # it describes itself beside the config
    else:
        path = find_config(path)
    config, trace = _read(path)
    object.__setattr__(config, TRACE, trace)
    refused = apply_overrides(config, overrides, trace)
    import_custom_modules(config)
    if check:
        _check(config, trace, allow_unknown, refused, together)
    elif refused:
        raise ConfigError("\n".join(refused))
    return config


def _check(
    config: Config, trace: Trace, allow_unknown: bool, refused: Sequence[str], together: bool
) -> None:
    from nlseg.config.check import check_config  # imports every class of the toolkit

    old = [key for key in OLD_KEYS if key in config]
    if "data" in old and len(old) > 1 and "train_dataloader" not in config:
        raise ConfigError(
            f"{trace.named_at(('data',))}: a config of mmsegmentation 0.x ({', '.join(old)}); "
            f"'nlseg migrate {config.filename} --out-dir DIR' (or tools/misc/migrate_config.py) "
            "writes it in the present form"
        )

    found = check_config(
        config, trace, allow_unknown=allow_unknown, refused=refused, together=together
    )
    for problem in found:
        LOGGER.warning("%s", problem)


def trace_of(config: Config) -> Trace:
    """Return where the values of a config were written.

    Args:
        config: A config; one that ``load_config`` did not read has no origins to tell.

    Returns:
        Its trace.
    """
    found = config.__dict__.get(TRACE)
    return found if isinstance(found, Trace) else no_trace(config)


def no_trace(config: Config) -> Trace:
    """Make the trace of a config that was built in memory: every name counts as used."""
    where = config.filename or "the config"
    return Trace(Origin(where), set(config), FileNode(Path(where)))


def _read(path: Path) -> tuple[ReadableConfig, Trace]:
    """Read the files; what goes wrong in them is told with the line of the config."""
    try:
        values, text, trace = read_files(path)
        for name in set(RESERVED_KEYS) & values.keys():
            raise ConfigError(f"{trace.named_at((name,))}: {name!r} is a word of Config itself")
        return ReadableConfig(rename_scope(values), cfg_text=text, filename=str(path)), trace
    except ConfigError:
        raise
    except RecursionError as error:
        where = _line_in_config(error, path)
        raise ConfigError(f"{where}: nested too deeply, or a value refers to itself") from error
    except Exception as error:
        said = error.args[0] if isinstance(error, KeyError) and error.args else error
        where = _line_in_config(error, path)
        raise ConfigError(f"{where}: {type(error).__name__}: {said}") from error


def _line_in_config(error: Exception, path: Path) -> str:
    """Return the last line of a config file that an error went through."""
    where = shown(path)
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_globals.get(FILE)
        if file is not None:
            where = f"{file.file}:{line}"
    return where


def import_custom_modules(config: Config) -> None:
    """Import the modules that ``custom_imports`` names, so that their classes are registered.

    ``mmseg_names = True`` lets them import from ``mmseg``, see :mod:`nlseg.mmseg_names`.

    Args:
        config: A config; without ``custom_imports`` nothing happens.

    Raises:
        ConfigError: A module cannot be imported, however it fails; names the cause and its line.
            Or ``mmseg_names`` is no bool.
    """
    wish = config.get("mmseg_names", False)
    if not isinstance(wish, bool):
        where = trace_of(config).where(("mmseg_names",))
        raise ConfigError(f"{where}: mmseg_names: wants True or False, given {wish!r}")
    if wish:
        import nlseg.mmseg_names  # noqa: F401 - takes effect by its import
    wanted = config.get("custom_imports") or {}
    names = wanted.get("imports") or []
    for name in [names] if isinstance(names, str) else names:
        try:
            importlib.import_module(name)
        except UserError:
            raise
        except Exception as error:  # the module is the user's and may fail in any way
            problem = f"custom_imports.imports: {_why_not_imported(name, error)}"
            if not (wanted.get("allow_failed_imports") and isinstance(error, ImportError)):
                raise ConfigError(problem) from error
            LOGGER.warning("%s; it is left out, as allow_failed_imports says", problem)


def _why_not_imported(name: str, error: Exception) -> str:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is not None and (name == missing or name.startswith(f"{missing}.")):
        return (
            f"there is no module {missing!r}; given {name!r}; the folder that holds the module has "
            "to be on PYTHONPATH"
        )
    frames = [(frame.f_code.co_filename, line) for frame, line in
              traceback.walk_tb(error.__traceback__)]  # fmt: skip
    outside = [f"{file}:{line}" for file, line in frames if not _is_importing(file)]
    where = outside[-1] if outside else name
    if isinstance(error, SyntaxError):
        where = f"{error.filename}:{error.lineno}"
    taken = _TAKEN.match(str(error.args[0])) if isinstance(error, KeyError) and error.args else None
    if taken is not None:
        return (
            f"{name!r} registers {taken[1]!r} at {where}, but {taken[3]} has a {taken[2]} of that "
            "name; register it under another name, or with force=True in its place"
        )
    hint = ""
    served = "nlseg.mmseg_names" in sys.modules
    if missing is not None and missing.partition(".")[0] == FOREIGN_SCOPE and not served:
        hint = "; 'mmseg_names = True' in the config lets it import ours under that name"
    return f"{name!r} fails at {where}: {type(error).__name__}: {error}{hint}"


def _is_importing(file: str) -> bool:
    """Return whether a frame's file is import machinery, or a registry, which has no fault."""
    parts = (
        "<frozen importlib", importlib.__file__ or "-", __file__, "mmseg_names.py",
        nlseg.registry.__file__, mmengine.registry.registry.__file__,
    )  # fmt: skip
    return any(file.startswith(part) or file.endswith(part) for part in parts)
