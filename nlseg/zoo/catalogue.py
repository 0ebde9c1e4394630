"""The models of a zoo: what ``zoo.yml`` says about them."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from nlseg.config.published import config_root, find_config
from nlseg.errors import ConfigError, nearest
from nlseg.weights.published import NAMES

Entry = TypeVar("Entry", bound="Group | Data | Model")


@dataclass(frozen=True)
class Group:
    """Models whose figures come from one place.

    Args:
        title: Heading of their table.
        source: Where the figures are from.
        paper: Address of the paper.
    """

    title: str
    source: str = ""
    paper: str = ""


@dataclass(frozen=True)
class Data:
    """The images that scores are of.

    Args:
        title: Data set and split.
        images: Their number.
        obtain: Where they come from.
        labels_sha256: Digest of their labels where it is known, see
            :func:`nlseg.zoo.receipt.digest_of_labels`.
    """

    title: str
    images: int
    obtain: str = ""
    labels_sha256: str = ""


@dataclass(frozen=True)
class Model:
    """A model and what is published about it.

    Args:
        name: Its name.
        group: Key of its group.
        data: Key of its data.
        config: Config file beside the zoo file, or name of a published config; the model's name
            where it is empty.
        miou: Published mIoU in percent, single scale.
        ms_flip: Published mIoU in percent over several scales and flips.
        classes: Published IoU in percent by class, where it is known.
        memory_gb: Memory of a GPU in training.
        fps: Images a second.
        weights: Address, or path beside the zoo file.
        sha256: First digits of the hash of the weights, as many as are known.
        earlier: ``miou``, ``ms_flip`` and ``until``: figures that were published before.
        receipts: Receipts of what was measured, beside the zoo file.
        note: What to know beside the figures.
        zoo: The file that says all this.
    """

    name: str
    group: str
    data: str
    config: str = ""
    miou: float | None = None
    ms_flip: float | None = None
    classes: Mapping[str, float] | None = None
    memory_gb: float | None = None
    fps: float | None = None
    weights: str = ""
    sha256: str = ""
    earlier: Mapping[str, Any] | None = None
    receipts: tuple[str, ...] = ()
    note: str = ""
    zoo: Path = Path("zoo.yml")

    @property
    def config_file(self) -> Path:
        """The config.

        Raises:
            ConfigError: There is none.
        """
        beside = self.zoo.parent / self.config
        return beside if self.config and beside.is_file() else find_config(self.config or self.name)

    @property
    def weights_source(self) -> str:
        """Address or path of the weights; empty where they are not published."""
        if not self.weights or "://" in self.weights:
            return self.weights
        return str(self.zoo.parent / self.weights)

    def published(self, *, tta: bool) -> float | None:
        """Return the published mIoU in percent of a protocol."""
        return self.ms_flip if tta else self.miou


@dataclass(frozen=True)
class Zoo:
    """All models of a file.

    Args:
        groups: By key.
        data: By key.
        models: By name.
    """

    groups: Mapping[str, Group]
    data: Mapping[str, Data]
    models: Mapping[str, Model]

    def find(self, name: str) -> Model:
        """Return a model by its name, here or in mmsegmentation 0.x.

        Raises:
            ConfigError: There is none.
        """
        model = self.models.get(NAMES.get(name, name))
        if model is None:
            raise ConfigError(
                f"{name}: no model of the zoo{nearest(name, self.models)}; nlseg zoo list"
            )
        return model


def read_zoo(path: str | Path | None = None) -> Zoo:
    """Read a zoo file; without a path that of nlseg.

    Raises:
        ConfigError: It cannot be read, or says something that no entry has.
    """
    path = Path(path) if path is not None else config_root() / "zoo.yml"
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    wanted = ("groups", "data", "models")
    if not isinstance(content, dict) or {*content} != {*wanted}:
        raise ConfigError(f"{path}: a zoo file has exactly the keys {', '.join(wanted)}")
    models = content["models"] or {}
    extra = {name: {"name": name, "zoo": path} for name in models}
    zoo = Zoo(
        {k: _entry(Group, v, f"{path}: groups.{k}") for k, v in content["groups"].items()},
        {k: _entry(Data, v, f"{path}: data.{k}") for k, v in content["data"].items()},
        {k: _entry(Model, v, f"{path}: models.{k}", extra[k]) for k, v in models.items()},
    )
    for name, model in zoo.models.items():
        for key, known in (("group", zoo.groups), ("data", zoo.data)):
            said = getattr(model, key)
            if said not in known:
                raise ConfigError(
                    f"{path}: models.{name}.{key}: there is no {said!r}{nearest(said, known)}"
                )
    return zoo


def _entry(
    kind: type[Entry], values: Any, place: str, extra: Mapping[str, Any] | None = None
) -> Entry:
    names = {field.name for field in fields(kind)} - {*(extra or {})}
    if not isinstance(values, dict):
        raise ConfigError(f"{place}: is a {type(values).__name__}, not keys and values")
    for name in values:
        if name not in names:
            raise ConfigError(f"{place}: there is no key {name!r}{nearest(name, names)}")
    try:
        return kind(**values, **(extra or {}))
    except TypeError as error:
        raise ConfigError(f"{place}: {error}") from None
