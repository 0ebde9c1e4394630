"""What an exported file says of itself: all that a program needs to label an image with it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

import nlseg
from nlseg.datasets.transforms import LoadImageFromFile, PackSegInputs, Resize
from nlseg.datasets.transforms.decode import BGR_TYPES
from nlseg.export.network import Choices
from nlseg.export.tracing import BlockPlan, image_channels
from nlseg.ops.resize import Size
from nlseg.visualization.pictures import as_palette


def facts_of(
    model: nn.Module,
    pipeline: Sequence[Any],
    choices: Choices,
    *,
    opset: int,
    largest: Size,
    blocks: Sequence[BlockPlan],
) -> dict[str, Any]:
    """Return the metadata of a file, plain values by name.

    Args:
        model: The segmentor, with its ``dataset_meta``.
        pipeline: The steps of the test pipeline without those that load labels.
        choices: What the file computes.
        opset: Of ONNX.
        largest: Height and width that the numbers of blocks are chosen for.
        blocks: How each non-local block was cut.
    """
    inner: Any = model
    rule = inner.data_preprocessor
    channels = image_channels(model)
    meta = inner.dataset_meta or {}
    classes = list(meta.get("classes") or [f"class {k}" for k in range(inner.num_classes)])
    swaps = rule.swap_channels and channels == 3
    resize, left_out = resize_rule(pipeline)
    if inner.test_cfg.resize_once and resize:
        left_out.append("test_cfg.resize_once")
    return {
        "nlseg": nlseg.__version__,
        "opset": opset,
        "classes": classes,
        "palette": as_palette(meta.get("palette"), len(classes)).tolist(),
        "mean": _numbers(rule.mean) if rule.normalises else [0.0] * channels,
        "std": _numbers(rule.std) if rule.normalises else [1.0] * channels,
        # of the file's input: readers give BGR, and preprocessing swaps where the config says so
        "channel_order": "RGB" if swaps and not choices.with_preprocessing else "BGR",
        "layout": "NHWC" if choices.with_preprocessing else "NCHW",
        "input": "uint8" if choices.with_preprocessing else "normalised",
        "output": "labels" if choices.argmax else "logits",
        "threshold": inner.last_head.threshold,
        "half": choices.half,
        "mode": choices.mode,
        "crop_size": list(inner.test_cfg.crop_size) if choices.mode == "slide" else None,
        "stride": list(inner.test_cfg.stride) if choices.mode == "slide" else None,
        "align_corners": inner.align_corners,
        "resize": resize,
        "color_type": color_type_of(pipeline),
        "not_in_the_file": left_out,
        "max_size": list(largest),
        "blocks": [block._asdict() for block in blocks],
    }


def as_texts(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return each value as JSON, the form in which a file holds it."""
    return {name: json.dumps(value) for name, value in facts.items()}


def color_type_of(pipeline: Sequence[Any]) -> str:
    """Return how the test pipeline loads images: whether they are turned as their EXIF tags say."""
    found = [step.color_type for step in pipeline if isinstance(step, LoadImageFromFile)]
    return next((one for one in found if one in BGR_TYPES), BGR_TYPES[0])


def resize_rule(pipeline: Sequence[Any]) -> tuple[dict[str, Any] | None, list[str]]:
    """Return how the test pipeline resizes images, and the steps that no file can carry.

    Args:
        pipeline: Its steps.
    """
    rule: dict[str, Any] | None = None
    left_out: list[str] = []
    for step in pipeline:
        usual = type(step) is Resize and (step.backend, step.interpolation) == ("cv2", "bilinear")
        if usual and step.scale and rule is None:
            rule = {"scale": list(step.scale), "keep_ratio": step.keep_ratio}
        elif not isinstance(step, (LoadImageFromFile, PackSegInputs)):
            left_out.append(type(step).__name__)
        elif isinstance(step, LoadImageFromFile) and step.color_type not in BGR_TYPES:
            left_out.append(f"LoadImageFromFile(color_type={step.color_type!r})")
    return rule, left_out


def _numbers(values: Any) -> list[float]:
    return [float(f"{value:.7g}") for value in values.flatten().tolist()]
