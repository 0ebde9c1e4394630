"""Use a network from Python: build it with its weights, and label images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from numpy.typing import NDArray
from torch import nn

import nlseg.datasets
import nlseg.models  # noqa: F401 - registers what configs name
from nlseg.config import load_config
from nlseg.errors import ConfigError, DataError
from nlseg.registry import DATASETS, MODELS, SCOPE
from nlseg.run.device import revert_sync_batchnorm
from nlseg.structures import SegDataSample
from nlseg.weights.fields import meta_in
from nlseg.weights.files import read_checkpoint
from nlseg.weights.fitting import check_fit, load_strictly, weights_in
from nlseg.weights.hub import is_on_the_hub

Picture = NDArray[np.uint8]
_LABEL_STEPS = ("LoadAnnotations",)


def init_model(
    config: str | Path | Config,
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a segmentor for inference.

    Args:
        config: Config file, the name of a published config, ``hf://OWNER/NAME[@REVISION]`` for a
            model of the Hugging Face Hub, or a loaded config.
        checkpoint: Weights: file, https address, published name or ``hf://OWNER/NAME``; every one
            must fit. None takes those of a model of the Hub, and else leaves random weights.
        device: Where to compute; a GPU where there is one, when not given.
        cfg_options: Settings to override, by dotted name.

    Returns:
        The segmentor in evaluation mode, with its config as ``cfg`` and its data set's classes and
        colours as ``dataset_meta``.

    Raises:
        UserError: Config or weights cannot be read, or do not fit each other.
    """
    cfg = config.copy() if isinstance(config, Config) else load_config(config)
    if cfg_options:
        cfg.merge_from_dict(dict(cfg_options))
    init_default_scope(cfg.get("default_scope", SCOPE))
    settings = cfg.model.to_dict()
    settings.update(train_cfg=None, pretrained=None)
    settings.get("backbone", {}).pop("init_cfg", None)
    meta = dataset_meta_of(cfg)
    content: dict[str, Any] = {}
    if not isinstance(config, Config) and is_on_the_hub(config):
        checkpoint = checkpoint or str(config)
        content = read_checkpoint(checkpoint)
        with torch.device("meta"):  # shapes first: a config may ask for more than a machine has
            check_fit(MODELS.build(settings), weights_in(content, str(checkpoint)), str(config))
        meta.update(meta_in({"meta": {"dataset_meta": cfg.to_dict()}}, str(config)))
    model: nn.Module = revert_sync_batchnorm(MODELS.build(settings))
    if checkpoint is not None:
        content = content or read_checkpoint(checkpoint)
        load_strictly(model, weights_in(content, str(checkpoint)), str(checkpoint))
        meta = {**meta, **meta_in(content, str(checkpoint))}
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model.cfg, model.dataset_meta = cfg, meta  # type: ignore[assignment]
    return model.to(device).eval()


def dataset_meta_of(cfg: Config) -> dict[str, Any]:
    """Return the classes and palette of the config's test data without looking at its files."""
    dataset = (cfg.get("test_dataloader") or {}).get("dataset", {})
    while "dataset" in dataset or "datasets" in dataset:
        dataset = dataset["dataset"] if "dataset" in dataset else dataset["datasets"][0]
    kind = DATASETS.get(dataset["type"]) if "type" in dataset else None
    return {**getattr(kind, "METAINFO", {}), **(dataset.get("metainfo") or {})}


def inference_model(
    model: nn.Module, images: str | Path | Picture | Sequence[str | Path | Picture]
) -> SegDataSample | list[SegDataSample]:
    """Label one image or several.

    Args:
        model: From ``init_model``.
        images: A file or a BGR picture (H, W, 3) uint8, or a sequence of them.

    Returns:
        For each image a sample with ``pred_sem_seg`` (1, H, W) and ``seg_logits`` (K, H, W) at the
        image's own size; one sample for one image.

    Raises:
        DataError: A picture has another shape or type.
    """
    alone = isinstance(images, (str, Path, np.ndarray))
    many: Sequence[Any] = [images] if alone else images  # type: ignore[list-item, assignment]
    pipeline = inference_pipeline(model.cfg)  # type: ignore[arg-type]
    results: list[SegDataSample] = []
    for image in many:
        item = _prepare(image, pipeline)
        batch = {key: [value] for key, value in item.items()}
        with torch.no_grad():
            results.extend(model.test_step(batch))  # type: ignore[operator]
    return results[0] if alone else results


def inference_pipeline(cfg: Config) -> Compose:
    """Build the config's test pipeline without the steps that load labels; ``cfg`` stays as it is.

    Raises:
        ConfigError: The config has none.
    """
    steps = cfg.get("test_pipeline")
    if steps is None:
        dataset = (cfg.get("test_dataloader") or {}).get("dataset", {})
        while "pipeline" not in dataset and ("dataset" in dataset or "datasets" in dataset):
            dataset = dataset["dataset"] if "dataset" in dataset else dataset["datasets"][0]
        steps = dataset.get("pipeline")
    if steps is None:
        raise ConfigError("test_pipeline: not in the config, so no image can be prepared")
    return Compose([dict(step) for step in steps if step["type"] not in _LABEL_STEPS])


def _prepare(image: Any, pipeline: Compose) -> Any:
    if not isinstance(image, np.ndarray):
        return pipeline({"img_path": str(image)})
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise DataError(
            f"inference_model: a picture has shape {image.shape} and type {image.dtype}; "
            "(H, W, 3) and uint8, in BGR order, are needed"
        )
    shape = image.shape[:2]
    sample: Any = {"img": image, "img_path": "", "img_shape": shape, "ori_shape": shape}
    for step in pipeline.transforms:
        if not type(step).__name__.startswith("LoadImage"):
            sample = step(sample)
    return sample
