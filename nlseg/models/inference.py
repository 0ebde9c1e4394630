"""The test settings: how images are cut, and how predictions get the original image's size."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from typing_extensions import TypedDict

from nlseg.bounds import AT_LEAST_1, HEIGHT_WIDTH, Count, Order
from nlseg.errors import ConfigError
from nlseg.ops.logit_rows import Resized, Restored, RowSource
from nlseg.ops.resize import Size
from nlseg.structures import input_size

FLIPS = {"horizontal": (False, True), "vertical": (True, False), "diagonal": (True, True)}


class InferenceCfg(TypedDict, total=False):
    """Keys of ``test_cfg``; ``Inference`` says what they mean."""

    mode: Literal["whole", "slide"]
    crop_size: Annotated[Size, AT_LEAST_1, HEIGHT_WIDTH] | None
    stride: Annotated[Size, AT_LEAST_1, Order("(vertical, horizontal)")] | None
    window_batch: Count
    resize_once: bool
    return_logits: bool


@dataclass
class Inference:
    """How images are cut and logits resized in evaluation; read like a dict, too.

    Args:
        mode: 'whole' runs the network once on the image, 'slide' on overlapping windows.
        crop_size: Height and width of a window in px.
        stride: Steps between windows in px.
        window_batch: How many windows run at once; same results to rounding.
        resize_once: Resize the head's logits straight to the original size, as SSSegmentation does,
            and not first to the size of the network's input. Has no effect on windows, and none on
            images that the preprocessor padded.
        return_logits: Keep the logits (K, H, W) of every image in ``seg_logits``. Off, a prediction
            never holds more than a few rows of them before they are read.
    """

    mode: Literal["whole", "slide"] = "whole"
    crop_size: Size | None = None
    stride: Size | None = None
    window_batch: int = 1
    resize_once: bool = False
    return_logits: bool = False

    @classmethod
    def from_cfg(cls, cfg: InferenceCfg) -> "Inference":
        """Fill in the defaults of a ``test_cfg`` whose keys and values have been checked.

        Keys of a user's segmentor become attributes beside ours.

        Raises:
            ConfigError: Windows without a size.
        """
        own = {key: value for key, value in cfg.items() if key in InferenceCfg.__annotations__}
        settings = cls(**own)  # type: ignore[arg-type]
        vars(settings).update({key: cfg[key] for key in cfg.keys() - own})  # type: ignore[literal-required]
        if settings.mode == "slide" and not (settings.crop_size and settings.stride):
            raise ConfigError("model.test_cfg: mode 'slide' needs 'crop_size' and 'stride'")
        return settings

    def __getitem__(self, name: str) -> Any:
        """Return a setting by its key."""
        return getattr(self, name)

    def keys(self) -> Iterable[str]:
        """Return the keys, those of a user's segmentor included; ``dict(settings)`` asks them."""
        return vars(self).keys()

    def __contains__(self, name: object) -> bool:
        """Return whether there is such a key."""
        return name in vars(self)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a setting by its key, or a default."""
        return getattr(self, name, default)


def completed(metainfos: Sequence[Mapping[str, Any]], size: Size) -> list[dict[str, Any]]:
    """Return the metainfo of images with their shapes, for heads and users' methods that read it.

    Args:
        metainfos: What is known of each image.
        size: Height and width of what the network is given.
    """
    shapes = {"ori_shape": size, "img_shape": size, "pad_shape": size}
    results = []
    for metainfo in metainfos:
        full = {**shapes, "padding_size": (0, 0, 0, 0), **metainfo}
        if input_size(full) != size:
            full["img_shape"] = torch.Size(size)
        results.append(full)
    return results


def padding_of(metainfo: dict[str, Any]) -> tuple[int, int, int, int]:
    """Return the preprocessor's padding of a sample: left, right, top and bottom in px."""
    padding = metainfo.get("img_padding_size", metainfo.get("padding_size", (0, 0, 0, 0)))
    left, right, top, bottom = padding
    return left, right, top, bottom


def to_original(source: RowSource, metainfo: dict[str, Any], align_corners: bool) -> RowSource:
    """Undo padding, flip and resizing of one image's logits.

    Args:
        source: Logits of the network's input.
        metainfo: The sample's ``img_padding_size`` or ``padding_size``, ``flip`` and
            ``flip_direction``, and ``ori_shape``.
        align_corners: See ``nlseg.ops.resize.resize``.

    Raises:
        ValueError: For a flip direction that does not exist.
    """
    flip = (False, False)
    if metainfo.get("flip"):
        direction = metainfo["flip_direction"]
        if direction not in FLIPS:
            raise ValueError(f"flip_direction: {direction!r} is not one of {list(FLIPS)}")
        flip = FLIPS[direction]
    padding = padding_of(metainfo)
    if any(padding) or any(flip):
        source = Restored(source, padding, flip)
    height, width = metainfo.get("ori_shape", source.size)[:2]
    return resized(source, (height, width), align_corners)


def resized(source: RowSource, size: Size, align_corners: bool) -> RowSource:
    """Return a source of the given size, the same one where it has that size."""
    if source.size == size:
        return source
    return Resized(source, size, align_corners=align_corners)
