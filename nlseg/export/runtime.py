"""Label images by an ONNX file, with numpy and onnxruntime alone: PyTorch is not imported."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nlseg.errors import DataError, UserError

Label = NDArray[np.integer]
"""Label map (H, W)."""


class OnnxNetwork:
    """An exported network.

    Args:
        file: From ``nlseg export``.

    Raises:
        UserError: onnxruntime is not installed, or the file is none of nlseg's.
    """

    def __init__(self, file: Path) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise UserError(f"{file}: needs onnxruntime; pip install 'nlseg[export]'") from None
        if not file.is_file():
            raise UserError(f"{file}: there is no such file")
        onnxruntime.set_default_logger_severity(3)
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        there = onnxruntime.get_available_providers()
        options = onnxruntime.SessionOptions()
        options.enable_cpu_mem_arena = False  # it grows by doubling: more than the network needs
        try:
            self.session = onnxruntime.InferenceSession(
                str(file), options, providers=[name for name in wanted if name in there]
            )
        except Exception as error:  # onnxruntime's own have no common base but this
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"{file}: onnxruntime cannot read it: {reason}") from None
        texts = self.session.get_modelmeta().custom_metadata_map
        if "nlseg" not in texts or "classes" not in texts:
            raise UserError(f"{file}: has no classes in its metadata; export it by 'nlseg export'")
        self.facts: dict[str, Any] = {
            name: json.loads(text) for name, text in texts.items() if _is_json(text)
        }
        self.input = self.session.get_inputs()[0].name

    def label(self, picture: NDArray[np.uint8]) -> Label:
        """Return the classes (H, W) of a BGR picture (H, W, 3)."""
        size = picture.shape[0], picture.shape[1]
        given = as_input(self.facts, resized(self.facts["resize"], picture)[None])
        result = self.session.run(None, {self.input: given})[0][0]
        if self.facts["output"] == "labels":
            return _nearest(result, size)
        return classes_of(result, size, self.facts)


def as_input(facts: Mapping[str, Any], pictures: NDArray[np.uint8]) -> NDArray[Any]:
    """Turn BGR pictures (N, H, W, C) into what a file takes, as its metadata says."""
    if facts["input"] == "uint8":
        return np.ascontiguousarray(pictures)
    images = pictures[..., ::-1] if facts["channel_order"] == "RGB" else pictures
    mean, std = (np.asarray(facts[name], np.float32) for name in ("mean", "std"))
    normalised = (images.astype(np.float32) - mean) / std
    return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))


def read_picture(file: Path, color_type: str = "color") -> NDArray[np.uint8]:
    """Read an image as BGR (H, W, 3), by the rules of ``LoadImageFromFile``.

    Args:
        file: The image.
        color_type: ``color``, turned as its EXIF tag says, or ``color_ignore_orientation``.

    Raises:
        DataError: It cannot be read.
    """
    import cv2

    try:
        data = np.fromfile(file, np.uint8)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from None
    try:
        flags = cv2.IMREAD_COLOR
        if color_type == "color_ignore_orientation":
            flags |= cv2.IMREAD_IGNORE_ORIENTATION
        picture = _without_alpha(file) if data[:2].tobytes() in (b"II", b"MM") else None
        if picture is None and data.size:
            picture = cv2.imdecode(data, flags)
    except cv2.error:
        picture = None
    if picture is None:
        raise DataError(f"{file}: is no image that OpenCV can read")
    return np.asarray(picture, np.uint8)


def _without_alpha(file: Path) -> Any:
    """Return the colours of a TIFF with an alpha channel, by which OpenCV darkens them; else None.

    A TIFF's own tag of orientation always counts.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as picture:
            if picture.mode != "RGBA":
                return None
            colours = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except (OSError, ValueError, SyntaxError):  # a kind of TIFF that only OpenCV reads
        return None
    return np.ascontiguousarray(colours[..., ::-1])


def resized(rule: Mapping[str, Any] | None, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Resize a picture as the test pipeline did.

    Args:
        rule: ``scale`` (width, height) and ``keep_ratio``; None for nothing.
        picture: (H, W, C).
    """
    if rule is None:
        return picture
    import cv2

    height, width = picture.shape[:2]
    scale = rule["scale"]
    new = (scale[0], scale[1])
    if rule["keep_ratio"]:
        factor = min(max(scale) / max(width, height), min(scale) / min(width, height))
        new = (int(width * factor + 0.5), int(height * factor + 0.5))
    if new == (width, height):
        return picture
    return np.asarray(cv2.resize(picture, new, interpolation=cv2.INTER_LINEAR), np.uint8)


def classes_of(logits: Any, size: tuple[int, int], facts: Mapping[str, Any]) -> Label:
    """Return the class of each pixel (H, W) from logits (K, h, w), in blocks of rows.

    Args:
        logits: Of the file.
        size: Height H and width W of the picture.
        facts: The file's metadata.
    """
    wide = _along_columns(logits, size[1], facts["align_corners"])
    first, last, share = taps(wide.shape[1], size[0], facts["align_corners"])
    labels = np.empty(size, np.int64)
    for top in range(0, size[0], 64):
        rows = slice(top, top + 64)
        part = wide[:, first[rows]] * (1 - share[rows, None])
        part += wide[:, last[rows]] * share[rows, None]
        if len(part) == 1:
            labels[rows] = 1 / (1 + np.exp(-part[0])) > facts["threshold"]
        else:
            labels[rows] = part.argmax(0)
    return labels


def _along_columns(logits: Any, width: int, align_corners: bool) -> Any:
    if logits.shape[2] == width:
        return logits
    first, last, share = taps(logits.shape[2], width, align_corners)
    return logits[:, :, first] * (1 - share) + logits[:, :, last] * share


def taps(old: int, new: int, align_corners: bool) -> tuple[Any, Any, Any]:
    """Return what each of ``new`` positions is made of: two old ones, and the second's share.

    Args:
        old: Positions before.
        new: Positions after.
        align_corners: Whether the centres of the corner pixels keep their place.
    """
    if align_corners:
        place = np.arange(new) * ((old - 1) / max(new - 1, 1))
    else:
        place = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, None)
    first = np.minimum(place.astype(np.int64), old - 1)
    share = (place - first).astype(np.float32)
    return first, np.minimum(first + 1, old - 1), share


def _nearest(labels: Any, size: tuple[int, int]) -> Label:
    rows, columns = (
        np.arange(new) * old // new for new, old in zip(size, labels.shape, strict=True)
    )
    chosen: Label = labels[rows[:, None], columns]
    return chosen


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
