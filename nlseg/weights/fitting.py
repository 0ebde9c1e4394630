"""Fit the weights of a file to a model, and say what fits and what does not."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from nlseg.errors import CheckpointError
from nlseg.weights.inert_parts import Inert

_SHOWN = 8
_SHOWN_LETTERS = 200
_UNCOUNTED = ".num_batches_tracked"  # PyTorch before 0.4.1 did not write it, and no result needs it
_EXTRA = "_extra_state"  # PyTorch's key for what a module saves beside tensors
ALMOST_NONE, FEW = 0.1, 0.5

FitReport = dict[str, list[str]]


def load_strictly(
    model: nn.Module, weights: Mapping[str, Any], source: str, *, finite: bool = True
) -> None:
    """Load weights of which every one must fit.

    Args:
        model: Takes the weights.
        weights: By name.
        source: Name of the file, for errors.
        finite: Whether NaN and infinity are refused where the model has none of its own.

    Raises:
        CheckpointError: Keys are missing, unexpected, wrongly shaped or of another kind, or hold
            numbers that are not finite; the error lists them.
    """
    check_fit(model, weights, source)
    if finite:
        _check_finite(model, weights, source)
    model.load_state_dict(dict(weights))


def check_fit(model: nn.Module, weights: Mapping[str, Any], source: str) -> None:
    """Refuse weights of which one does not fit, or that leave one of the model's out.

    Args:
        model: Looked at only; it may be on the device ``meta``.
        weights: By name.
        source: Name of the file, for errors.

    Raises:
        CheckpointError: Keys are missing, unexpected, wrongly shaped or of another kind; the error
            lists them.
    """
    report = compare(model, weights)
    if any(report.values()):
        raise CheckpointError(f"{source}: does not fit the model\n{_explained(model, report)}")


def load_what_fits(
    model: nn.Module, weights: Mapping[str, Any], source: str, *, finite: bool = True
) -> str:
    """Load the weights that fit and say what was used; warn where that is less than half.

    Args:
        model: Takes the weights.
        weights: By name.
        source: Name of the file, for messages.
        finite: Whether NaN and infinity are refused where the model has none of its own.

    Raises:
        CheckpointError: None fits, or almost none, or some hold numbers that are not finite.
    """
    report = compare(model, weights)
    own = model.state_dict()
    unfit = {
        line.split(":")[0] for kind, keys in report.items() if kind != "missing" for line in keys
    }
    used = {key: value for key, value in weights.items() if key not in unfit}
    share = max(_share(used, own), _share(used, weights))
    if share < ALMOST_NONE:
        amount = f"only {len(used)} of its {len(weights)} weights fit" if used else "no weight fits"
        raise CheckpointError(f"{source}: {amount} the model\n{_explained(model, report)}")
    if finite:
        _check_finite(model, used, source)
    model.load_state_dict(used, strict=False)
    head = f"{source}: {len(used)} of the model's {len(own)} weights were loaded"
    text = f"{head}, of {len(weights)} in the file\n{_explained(model, report)}".rstrip()
    if min(_share(used, own), _share(used, weights)) < FEW:
        print_log(f"less than half fits: {text}", logger="current", level=logging.WARNING)
    return text


def _share(used: Mapping[str, Any], whole: Mapping[str, Any]) -> float:
    counted = [key for key in whole if not key.endswith(_UNCOUNTED)]
    return sum(not key.endswith(_UNCOUNTED) for key in used) / max(len(counted), 1)


def compare(model: nn.Module, weights: Mapping[str, Any]) -> FitReport:
    """List the keys of a state dict that do not fit a model, by kind."""
    own = {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    known = {*model.state_dict()}
    tensors = {key: value for key, value in weights.items() if isinstance(value, Tensor)}
    both = [(key, tensors[key], value) for key, value in own.items() if key in tensors]
    report = {
        "missing": [k for k in own if k not in tensors and not k.endswith(_UNCOUNTED)],
        "unexpected": [key for key in weights if key not in known],
        "wrong shape": [
            f"{key}: {tuple(given.shape)} in the file, {tuple(value.shape)} in the model"
            for key, given, value in both
            if given.shape != value.shape
        ],
    }
    wrong = [
        f"{key}: {given.dtype} in the file, {value.dtype} in the model"
        for key, given, value in both
        if given.shape == value.shape and _kind(given) != _kind(value)
    ]
    return {**report, "wrong type": wrong} if wrong else report


def _kind(tensor: Tensor) -> str:
    """Return the kind of a tensor's numbers; within a kind PyTorch turns one into the other."""
    if tensor.is_complex():
        return "complex"
    return "real" if tensor.is_floating_point() else "whole"


def _check_finite(model: nn.Module, weights: Mapping[str, Any], source: str) -> None:
    own = model.state_dict()
    bad = [key for key, value in weights.items() if not _finite(value) and _finite(own.get(key))]
    if bad:
        shown = ", ".join(map(shorten, bad[:_SHOWN])) + (", ..." if len(bad) > _SHOWN else "")
        raise CheckpointError(
            f"{source}: is refused: {len(bad)} of its weights hold NaN or infinity ({shown}); the "
            "training that wrote it had failed; take an earlier checkpoint, or give "
            "load_finite=False to use it all the same"
        )


def _finite(value: Any) -> bool:
    if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
        return True
    return bool(torch.isfinite(value).all())


def shorten(text: Any) -> str:
    """Make a name from a file fit to be shown: printable and not endless."""
    shown = str(text)[:_SHOWN_LETTERS]
    shown = shown if shown.isprintable() else repr(shown)
    return f"{shown}..." if len(str(text)) > _SHOWN_LETTERS else shown


def describe_report(report: Mapping[str, Sequence[str]]) -> str:
    """Write what ``compare`` found as lines for the user; the first few keys of each kind."""
    lines = []
    for kind, keys in report.items():
        if keys:
            more = f"\n    ... and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
            shown = "\n    ".join(map(shorten, keys[:_SHOWN]))
            lines.append(f"  {kind} ({len(keys)}):\n    {shown}{more}")
    return "\n".join(lines)


def _explained(model: nn.Module, report: FitReport) -> str:
    """Describe what does not fit and, where the keys show it, why and what to do."""
    causes = (_sssegmentation, _class_count, _stem, _part_of_a_whole, _whole_of_a_part)
    advice = [text for cause in causes if (text := cause(model, report))]
    return "\n".join([describe_report(report), *[f"  {text}" for text in advice[:1]]]).rstrip()


def _sssegmentation(_: nn.Module, report: FitReport) -> str | None:
    theirs = ("backbone_net.", "conv_before_nl.", "nl_block.g.0.")
    if any(key.startswith(theirs) for key in report["unexpected"]):
        return (
            "these are SSSegmentation's names; rename them by "
            "'python tools/model_converters/sssegmentation.py SRC DST --config CONFIG'"
        )
    return None


def _class_count(model: nn.Module, report: FitReport) -> str | None:
    own = model.state_dict()
    for line in report["wrong shape"]:
        key, _, shapes = line.partition(":")
        if key.endswith("conv_seg.bias"):
            return (
                f"the file is for {shapes.split(',')[0].strip(' (')} classes, the model for "
                f"{len(own[key])}: set num_classes of the heads to the file's, or train on from it "
                "with load_from, which leaves these layers as they are"
            )
    return None


def _stem(_: nn.Module, report: FitReport) -> str | None:
    """A plain ResNet's file for one with a deep stem, or the other way round."""
    plain, deep = "conv1.weight", "stem.0.weight"
    if deep in report["missing"] and plain in report["unexpected"]:
        return (
            "the stem was not loaded: the file's network has the plain one of ResNet, the model "
            "the deep one of ResNetV1c and ResNetV1d; take backbone.type='ResNet', or weights "
            "such as open-mmlab://resnet50_v1c"
        )
    if plain in report["missing"] and {deep, "conv1.0.weight"} & {*report["unexpected"]}:
        return (
            "the stem was not loaded: the file's network has the deep one of ResNetV1c and "
            "ResNetV1d, the model the plain one; take one of these as backbone.type"
        )
    return None


def _part_of_a_whole(model: nn.Module, report: FitReport) -> str | None:
    """The model is a part, such as a backbone, and the file holds the whole."""
    own = model.state_dict()
    starts = dict.fromkeys(k.split(".")[0] + "." for k in report["unexpected"])
    for start in starts:
        if any(key.removeprefix(start) in own for key in report["unexpected"] if start in key):
            return (
                f"without their '{start}' keys of the file fit; load them by init_cfg="
                f"dict(type='Pretrained', checkpoint=..., prefix='{start}')"
            )
    return None


def _whole_of_a_part(model: nn.Module, report: FitReport) -> str | None:
    """The file holds a part, such as a backbone, and the model is the whole."""
    own = model.state_dict()
    for name, _ in model.named_children():
        if sum(f"{name}.{key}" in own for key in report["unexpected"]) > 1:
            hint = "give the file as model.pretrained" if name == "backbone" else f"of {name} alone"
            return f"the keys of the file are those of the {name}; {hint}"
    return None


def weights_in(checkpoint: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """Return the state dict of a checkpoint, or the checkpoint itself where it is one.

    A leading ``module.`` of keys, which a wrapped model leaves, is taken off.

    Raises:
        CheckpointError: It holds no tensors, or something else where a tensor belongs.
    """
    name = next((key for key in ("state_dict", "model") if key in checkpoint), "")
    inner = checkpoint[name] if name else checkpoint
    if isinstance(inner, Mapping) and any(isinstance(value, Tensor) for value in inner.values()):
        weights: dict[str, Tensor] = {}
        for key, value in inner.items():
            _check_weight(f"{name}.{shorten(key)}".strip("."), key, value, source)
            weights[str(key).removeprefix("module.")] = value
        if len(weights) < len(inner):
            raise CheckpointError(f"{source}: holds weights of one name with and without 'module.'")
        return weights
    raise CheckpointError(f"{source}: {_without_weights(checkpoint, name)}")


def _check_weight(place: str, key: Any, value: Any, source: str) -> None:
    if not isinstance(key, str):
        raise CheckpointError(f"{source}: {place}: the key is a {type(key).__name__}, not a name")
    if key.endswith(_EXTRA) or isinstance(value, Tensor):
        return
    kind = value.strange_tensor if isinstance(value, Inert) else None
    if kind:
        raise CheckpointError(
            f"{source}: {place}: is a {kind} tensor; save a plain one, by .to_dense() or "
            ".dequantize() or from a model that is on a device"
        )
    raise CheckpointError(
        f"{source}: {place}: is {_described(value)} where a tensor belongs; the file was changed, "
        "or is no state dict"
    )


def _described(value: Any) -> str:
    if value is None or isinstance(value, (bool, int, float, Inert)):
        return repr(value)[:_SHOWN_LETTERS]
    return f"a {type(value).__name__}"


def _without_weights(checkpoint: Mapping[str, Any], name: str) -> str:
    names = ", ".join(shorten(key) for key in list(checkpoint)[:_SHOWN]) or "none"
    if name and isinstance(checkpoint[name], Mapping) and checkpoint[name]:
        key, value = next(iter(checkpoint[name].items()))
        return f"{name}.{shorten(key)}: is {_described(value)} where a tensor belongs"
    if name:
        return f"holds no weights: its '{name}' is {_described(checkpoint[name])}"
    if "optimizer" in checkpoint or "param_groups" in checkpoint:
        return (
            f"holds no weights but the state of an optimizer (keys: {names}); give the checkpoint "
            "that has a 'state_dict'"
        )
    inner = [
        shorten(key)
        for key, value in checkpoint.items()
        if isinstance(value, Mapping) and any(isinstance(item, Tensor) for item in value.values())
    ]
    remedy = f"; save its '{inner[0]}' as a file of its own" if inner else ""
    return f"holds no weights (keys: {names}){remedy}"
