"""Models from the Hugging Face Hub: ``config.json`` and ``model.safetensors``, and nothing else.

Repositories there hold Python files and pickles too. Neither is fetched: what a config names is
looked up among the classes that are registered here, and weights come without pickle.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.registry import Registry

from nlseg import registry
from nlseg.errors import CheckpointError, ConfigError, UserError
from nlseg.files import sha256_of
from nlseg.registry import SCOPE

SCHEME = "hf://"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
_SOURCE = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_MAX_CONFIG = 4 << 20  # bytes
_MAX_NUMBER = 100_000  # of anything that a model is built from
_SCOPES = (SCOPE, "mmseg", "mmengine")
_RUNS_CODE = ("custom_imports", "_base_", "_scope_", "_delete_")


def is_on_the_hub(source: str | Path) -> bool:
    """Return whether a source is ``hf://OWNER/NAME`` with or without ``@REVISION``."""
    return str(source).startswith(SCHEME)


def fetch_weights(source: str) -> Path:
    """Return the local copy of a repository's ``model.safetensors``, fetched at first use.

    Args:
        source: ``hf://OWNER/NAME`` or ``hf://OWNER/NAME@REVISION``.

    Raises:
        CheckpointError: It cannot be fetched, is not there, or is not what the Hub says it is.
    """
    return _fetch(source, WEIGHTS, CheckpointError)


def fetch_config(source: str) -> Path:
    """Return the local copy of a repository's ``config.json`` after a look at what it names.

    Args:
        source: ``hf://OWNER/NAME`` or ``hf://OWNER/NAME@REVISION``.

    Raises:
        ConfigError: It cannot be fetched, is no config of nlseg, or names more than registered
            classes.
    """
    path = _fetch(source, CONFIG, ConfigError)
    place = f"{source}/{CONFIG}"
    if path.stat().st_size > _MAX_CONFIG:
        raise ConfigError(f"{place}: has {path.stat().st_size} bytes; no config has")
    try:
        values = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: is no JSON: {error}") from None
    if not isinstance(values, dict) or not isinstance(values.get("model"), dict):
        raise ConfigError(f"{place}: describes no model of nlseg (it has no 'model')")
    refuse_code(values, place)
    return path


def refuse_code(values: Mapping[str, Any], place: str) -> None:
    """Refuse a config from elsewhere that would do more than build registered classes.

    Args:
        values: A resolved config, or the part of one that is wanted.
        place: Where it is from, for the error.

    Raises:
        ConfigError: It would import a module, read an environment variable, or build without end.
    """
    try:
        _look_at(values, place, _registered_names())
    except RecursionError:
        raise ConfigError(f"{place}: is nested too deeply") from None


def _registered_names() -> set[str]:
    """Return the names of all classes that a config may name.

    A registry that does not know a name imports a module of that name and looks there, which is
    not for files from elsewhere.
    """
    names: set[str] = set()
    for found in vars(registry).values():
        while isinstance(found, Registry):
            found.import_from_location()
            names.update(found.module_dict)
            found = found.parent
    return names


def _look_at(value: Any, place: str, names: set[str]) -> None:
    """Refuse what would import a module, read an environment variable, or build without end."""
    if isinstance(value, dict):
        for key, item in value.items():
            inner = f"{place}.{key}"
            _look_at_entry(key, item, inner, names)
            _look_at(item, inner, names)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _look_at(item, place, names)
    elif isinstance(value, str) and "{{" in value:
        raise ConfigError(f"{place}: {value[:80]!r} is a template; only plain values are read")


def _look_at_entry(key: str, value: Any, place: str, names: set[str]) -> None:
    if key in _RUNS_CODE:
        raise ConfigError(f"{place}: is refused, a config of others may import nothing")
    if key == "type" and (not isinstance(value, str) or value not in names):
        raise ConfigError(f"{place}: {value!r} is refused; it is no registered class")
    if key == "default_scope" and value not in _SCOPES:
        raise ConfigError(f"{place}: {value!r} is not one of {', '.join(_SCOPES)}")
    if isinstance(value, (int, float)) and abs(value) > _MAX_NUMBER:
        raise ConfigError(f"{place}: {value} is more than {_MAX_NUMBER:,}")


def _fetch(source: str, file: str, kind: type[UserError]) -> Path:
    named = _SOURCE.fullmatch(source)
    if named is None:
        raise kind(f"{source}: is not hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError:
        raise kind(f"{source}: needs huggingface_hub; pip install 'nlseg[hub]'") from None
    repository, revision = named.groups()
    try:
        path = Path(huggingface_hub.hf_hub_download(repository, file, revision=revision))
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise kind(f"{source}: {file}: {_why(error, file)}") from None
    named_by = path.resolve().name  # the Hub names large files by their SHA-256
    if re.fullmatch("[0-9a-f]{64}", named_by) and sha256_of(path) != named_by:
        raise kind(f"{path}: does not match its SHA-256; delete it and it is fetched again")
    return path


def _why(error: Exception, file: str) -> str:
    """Say in a sentence what huggingface_hub says in many."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    sentences: dict[type[Exception], str] = {
        GatedRepoError: "its owner asks you to accept terms first, on the repository's page, and "
        "to log in by 'hf auth login'",
        RepositoryNotFoundError: "there is no such repository, or it is private and you are not "
        "logged in ('hf auth login')",
        RevisionNotFoundError: "the repository has no such revision",
        LocalEntryNotFoundError: "cannot be fetched, and there is no copy on this machine",
        EntryNotFoundError: f"the repository has no {file}; pickles and Python files of the Hub "
        "are not read, its owner can convert them",
    }
    for kind, sentence in sentences.items():
        if isinstance(error, kind):
            return sentence
    return f"cannot be fetched: {str(error).strip().splitlines()[0] if str(error) else error!r}"
