"""Integers of 8 bits in the convolutions of an ONNX file, and the mIoU that they cost."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from numpy.typing import NDArray

from nlseg.errors import DataError, UserError
from nlseg.evaluation.scores import class_scores
from nlseg.export.runtime import OnnxNetwork, as_input, resized
from nlseg.files import write_file
from nlseg.ops.confusion import count_pairs
from nlseg.registry import DATASETS
from nlseg.structures import IGNORE_INDEX

Picture = NDArray[np.uint8]
"""BGR picture (H, W, 3)."""


def quantize(file: Path, target: Path, pictures: Sequence[Picture]) -> None:
    """Write a copy of an ONNX file whose convolutions compute in int8; attention stays float.

    Args:
        file: From ``nlseg export``.
        target: The copy.
        pictures: Images whose maps give the ranges.

    Raises:
        UserError: onnxruntime cannot quantise the file.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    network = OnnxNetwork(file)
    rule = network.facts["resize"]
    inputs = (
        {network.input: as_input(network.facts, resized(rule, each)[None])} for each in pictures
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Any] | None:
            return next(inputs, None)

    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "int8.onnx"
        logging.disable(logging.WARNING)  # advice of onnxruntime that does not hold for our files
        try:
            quantize_static(
                str(file), str(made), Reader(), op_types_to_quantize=["Conv"], per_channel=True
            )
        except Exception as error:  # of onnxruntime: any
            raise UserError(f"{file}: onnxruntime cannot quantise it: {error}") from error
        finally:
            logging.disable(logging.NOTSET)
        proto = onnx.load(made)
    if "DequantizeLinear" not in {node.op_type for node in proto.graph.node}:
        raise UserError(f"{file}: onnxruntime found no convolution to quantise in it")
    write_file(target, proto.SerializeToString())


def miou_of(network: OnnxNetwork, samples: Iterator[tuple[Picture, NDArray[np.integer]]]) -> float:
    """Return the mIoU of a file on pictures and their label maps (H, W), in percent."""
    count = len(network.facts["classes"])
    total = torch.zeros((count + 1, count + 1), dtype=torch.int64)
    for picture, label in samples:
        found = torch.from_numpy(np.ascontiguousarray(network.label(picture)).astype(np.int64))
        truth = torch.from_numpy(label.astype(np.int64))
        total += count_pairs(found, truth, count, ignore_index=IGNORE_INDEX)
    return 100 * float(np.nanmean(class_scores(total, count)["IoU"]))


class RawSamples:
    """Pictures and label maps of a config's data set, as they are stored.

    Args:
        cfg: The config.
        loader: ``train_dataloader`` or ``val_dataloader``.

    Raises:
        DataError: The config has no such data set, or its files are not there.
    """

    def __init__(self, cfg: Config, loader: str) -> None:
        settings = (cfg.get(loader) or {}).get("dataset")
        if settings is None:
            raise DataError(f"{loader}: not in the config; --int8 needs its data set")
        steps = [
            {"type": kind} for kind in ("LoadImageFromFile", "LoadAnnotations", "PackSegInputs")
        ]
        self.dataset: Any = DATASETS.build(_with_pipeline(settings.to_dict(), steps))

    def __iter__(self) -> Iterator[tuple[Picture, NDArray[np.integer]]]:
        """Walk over pictures and label maps (H, W)."""
        for i in range(len(self.dataset)):
            sample = self.dataset[i]
            picture = np.ascontiguousarray(sample["inputs"].numpy().transpose(1, 2, 0))
            yield picture, sample["data_samples"].gt_sem_seg.data[0].numpy()


def _with_pipeline(settings: dict[str, Any], steps: Sequence[Any]) -> dict[str, Any]:
    """Give a data set another pipeline, also one that is joined or repeated."""
    if "dataset" in settings:
        return {**settings, "dataset": _with_pipeline(settings["dataset"], steps)}
    if "datasets" in settings:
        parts = [_with_pipeline(each, steps) for each in settings["datasets"]]
        return {**settings, "datasets": parts}
    return {**settings, "pipeline": list(steps)}
