"""The configs that come with nlseg, by their bare names, from any folder."""

from collections.abc import Mapping
from pathlib import Path

import nlseg
from nlseg.errors import ConfigError, near_words, nearest

SUFFIXES = (".py", ".json", ".yaml", ".yml")


def config_root() -> Path:
    """Return the folder of the published configs: in a checkout, or in the installed package."""
    package = Path(nlseg.__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def published_configs() -> dict[str, Path]:
    """List the published configs that can be run: bare name to file."""
    files = sorted(config_root().glob("*/*.py"))
    return {path.stem: path for path in files if not path.parent.name.startswith("_")}


def find_config(name: str | Path) -> Path:
    """Return the file of a config.

    Args:
        name: A path; or the name of a published config, with or without folder and ``.py``.

    Raises:
        ConfigError: There is neither such a file nor such a name; the nearest names are listed.
    """
    path = Path(name)
    is_config = path.suffix in SUFFIXES
    if is_config and path.is_file():
        return path
    published = published_configs()
    bare = path.stem if is_config else path.name
    folders = ("", "configs", *{file.parent.name for file in published.values()})
    if path.parent.name in folders and bare in published:
        return published[bare]
    raise ConfigError(f"{path}: {_why_not(path, bare, published)}")


def _why_not(path: Path, bare: str, published: Mapping[str, Path]) -> str:
    if path.is_file():
        return f"a config file ends in one of {', '.join(SUFFIXES)}"
    problem = f"no such config file; expected one of {', '.join(SUFFIXES)}"
    if not path.parent.is_dir():
        return f"{problem}; there is no folder {path.parent}"
    beside = [file.name for file in sorted(path.parent.iterdir()) if file.suffix in SUFFIXES]
    if near := nearest(path.name, beside):
        return f"{problem}{near}"
    names = near_words(bare, published, number=3, likeness=0.3)
    return f"{problem}; or the name of a published one; the nearest are {', '.join(names)}"
