"""Data sets and pipelines of mmsegmentation 0.x in the present form."""

from collections.abc import Mapping
from typing import Any

Cfg = dict[str, Any]
IMG_RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
DROPPED = ("DefaultFormatBundle", "ImageToTensor", "Normalize", "Pad")
SAME_NAME = ("img_suffix", "seg_map_suffix", "reduce_zero_label", "ignore_index", "data_root")


def migrate_dataset(old: Mapping[str, Any] | list[Any], pipeline: list[Cfg]) -> Cfg:
    """Turn a data set of 0.x into the present form.

    Args:
        old: Its config. Lists of folders or of splits, and a list of data sets, are joined.
        pipeline: The new pipeline of each data set.

    Returns:
        The new config, a ``ConcatDataset`` where there are several.
    """
    if isinstance(old, list):
        return _joined([migrate_dataset(item, pipeline) for item in old])
    if "dataset" in old:
        return {**old, "dataset": migrate_dataset(old["dataset"], pipeline)}
    lengths = [len(old[key]) for key in ("img_dir", "ann_dir", "split") if _is_list(old.get(key))]
    if not lengths:
        return _single(old, pipeline)
    parts = [{**old} for _ in range(max(lengths))]
    for key in ("img_dir", "ann_dir", "split"):
        for index, part in enumerate(parts):
            if _is_list(old.get(key)):
                part[key] = old[key][index]
    return _joined([_single(part, pipeline) for part in parts])


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _joined(parts: list[Cfg]) -> Cfg:
    return parts[0] if len(parts) == 1 else {"type": "ConcatDataset", "datasets": parts}


def _single(old: Mapping[str, Any], pipeline: list[Cfg]) -> Cfg:
    new: Cfg = {"type": old["type"]}
    new.update({key: old[key] for key in SAME_NAME if old.get(key) is not None})
    meta = {key: old[key] for key in ("classes", "palette") if old.get(key) is not None}
    if meta:
        new["metainfo"] = meta
    if old.get("split"):
        new["ann_file"] = old["split"]
    names = {"img_path": old.get("img_dir"), "seg_map_path": old.get("ann_dir")}
    new["data_prefix"] = {key: value for key, value in names.items() if value is not None}
    new["pipeline"] = pipeline
    return new


def migrate_train_pipeline(old: list[Mapping[str, Any]]) -> list[Cfg]:
    """Turn a training pipeline of 0.x into the present form.

    Normalisation and padding leave it: the preprocessor does them. ``Resize`` with a range of
    ratios becomes ``RandomResize``, ``Collect`` becomes ``PackSegInputs``.
    """
    return [new for step in old if (new := _migrate_step(step)) is not None]


def _migrate_step(step: Mapping[str, Any]) -> Cfg | None:
    kind = step["type"]
    if kind in DROPPED:
        return None
    if kind == "Collect":
        return {"type": "PackSegInputs"}
    if kind == "Resize":
        return _resize(step)
    if kind == "RandomFlip" and "flip_ratio" in step:
        kept = {key: value for key, value in step.items() if key != "flip_ratio"}
        return {**kept, "prob": step["flip_ratio"]}
    return dict(step)


def _resize(step: Mapping[str, Any]) -> Cfg:
    scale, keep_ratio = step.get("img_scale"), step.get("keep_ratio", True)
    if isinstance(scale, list) and len(scale) == 1:
        scale = scale[0]
    if step.get("ratio_range") is not None:
        ratios = {"ratio_range": step["ratio_range"]}
        return {"type": "RandomResize", "scale": scale, **ratios, "keep_ratio": keep_ratio}
    if not isinstance(scale, list):
        return {"type": "Resize", "scale": scale, "keep_ratio": keep_ratio}
    if step.get("multiscale_mode") == "value":
        return {"type": "RandomChoiceResize", "scales": scale, "keep_ratio": keep_ratio}
    return {"type": "RandomResize", "scale": scale, "keep_ratio": keep_ratio}


def migrate_test_pipeline(
    old: list[Mapping[str, Any]], annotations: Cfg
) -> tuple[list[Cfg], list[Cfg]]:
    """Turn a test pipeline of 0.x into the present form.

    Args:
        old: The pipeline, with ``MultiScaleFlipAug``.
        annotations: The step of training that loads labels.

    Returns:
        The single-scale pipeline, which loads labels after resizing, and the multi-scale one.
    """
    augment = next((step for step in old if step["type"] == "MultiScaleFlipAug"), {})
    scale = augment.get("img_scale")
    single: list[Cfg] = [
        {"type": "LoadImageFromFile"},
        {"type": "Resize", "scale": scale, "keep_ratio": True},
        dict(annotations),
        {"type": "PackSegInputs"},
    ]
    ratios = augment.get("img_ratios") or IMG_RATIOS
    flips = [{"type": "RandomFlip", "prob": p, "direction": "horizontal"} for p in (0.0, 1.0)]
    branches: list[list[Cfg]] = [
        [{"type": "Resize", "scale_factor": ratio, "keep_ratio": True} for ratio in ratios],
        flips,
        [{"type": "LoadAnnotations"}],
        [{"type": "PackSegInputs"}],
    ]
    several = {"type": "TestTimeAug", "transforms": branches}
    return single, [{"type": "LoadImageFromFile", "backend_args": None}, several]


def preprocessor_of(pipeline: list[Mapping[str, Any]]) -> Cfg:
    """Collect what the preprocessor does now: normalisation and padding of a 0.x pipeline."""
    steps = {step["type"]: step for step in pipeline}
    new: Cfg = {"type": "SegDataPreProcessor"}
    normalize, pad = steps.get("Normalize", {}), steps.get("Pad", {})
    new.update({key: normalize[key] for key in ("mean", "std") if key in normalize})
    new["bgr_to_rgb"] = normalize.get("to_rgb", True)
    new["pad_val"] = pad.get("pad_val", 0)
    new["seg_pad_val"] = pad.get("seg_pad_val", 255)
    new.update({key: pad[key] for key in ("size", "size_divisor") if pad.get(key) is not None})
    if "size" not in new and "size_divisor" not in new:
        new["size"] = steps.get("RandomCrop", {}).get("crop_size")
    return new
