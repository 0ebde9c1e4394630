"""Transforms of the albumentations package."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar

import cv2
from mmcv.transforms import BaseTransform

from nlseg.datasets.transforms.draws import rng_of, seeded_globals
from nlseg.errors import ConfigError, nearest
from nlseg.registry import TRANSFORMS
from nlseg.structures import Sample

_KEYS = {"img": "image", "gt_seg_map": "mask"}


@TRANSFORMS.register_module()
class Albu(BaseTransform):
    """Apply transforms of albumentations, by their names there; images are RGB for them.

    They draw from the sample's generator.

    Args:
        transforms: Their configs, ``dict(type="RandomBrightnessContrast", p=0.2)``; those that
            take ``transforms`` take such a list, too.
        keymap: albumentations' name for each key of the sample that they are to change; None for
            ``dict(img="image", gt_seg_map="mask")``.
        update_pad_shape: Note the new shape as ``pad_shape``.

    Raises:
        ConfigError: The package is not installed, or has no such transform.
    """

    of_another_library: ClassVar[tuple[str, ...]] = ("transforms",)
    """Arguments whose types are no names of ours."""

    def __init__(
        self,
        transforms: Sequence[Mapping[str, Any]],
        keymap: Mapping[str, str] | None = None,
        update_pad_shape: bool = False,
    ) -> None:
        try:
            self.package: str = import_module("albumentations").__name__
        except ImportError as error:
            raise ConfigError(
                f"Albu: albumentations cannot be imported ({error}); pip install albumentations "
                "(or 'nlseg[optional]')"
            ) from error
        self.transforms = transforms
        self.keymap = dict(_KEYS if keymap is None else keymap)
        self.update_pad_shape = update_pad_shape
        compose = import_module(self.package).Compose
        self.augment = compose([self.build(step) for step in transforms])

    def build(self, config: Mapping[str, Any]) -> Any:
        """Build one transform, and those inside it.

        Raises:
            ConfigError: There is no such transform, or it does not take these arguments.
        """
        arguments = dict(config)
        kind = arguments.pop("type", None)
        library = import_module(self.package)
        found = getattr(library, kind, None) if isinstance(kind, str) else kind
        if not isinstance(found, type):
            hint = nearest(kind, dir(library))
            raise ConfigError(f"Albu.transforms: albumentations has no {kind!r}{hint}")
        if "transforms" in arguments:
            arguments["transforms"] = [self.build(step) for step in arguments["transforms"]]
        try:
            return found(**arguments)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"Albu.transforms: {kind}: {error}") from error

    def transform(self, sample: Sample) -> Sample:
        """Change the keys of ``keymap`` that the sample has; note ``img_shape``."""
        given = {theirs: sample[ours] for ours, theirs in self.keymap.items() if ours in sample}
        words = [int(word) for word in rng_of(sample).randint(0, 1 << 31, 4)]
        if "image" in given:
            given["image"] = cv2.cvtColor(given["image"], cv2.COLOR_BGR2RGB)
        if hasattr(self.augment, "set_random_seed"):
            self.augment.set_random_seed(words[3])
            result = self.augment(**given)
        else:  # releases before 1.4.19 draw from the global generators
            with seeded_globals(words[:3]):
                result = self.augment(**given)
        if "image" in given:
            result["image"] = cv2.cvtColor(result["image"], cv2.COLOR_RGB2BGR)
        for ours, theirs in self.keymap.items():
            if theirs in given:
                sample[ours] = result[theirs]
        sample["img_shape"] = sample["img"].shape[:2]
        if self.update_pad_shape:
            sample["pad_shape"] = sample["img"].shape
        return sample
