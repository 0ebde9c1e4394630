"""Fit the weights of a file to a model, and say what fits and what does not."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from nlseg.errors import CheckpointError
from nlseg.weights.inert_parts import Inert

_SHOWN = 8


def load_strictly(model: nn.Module, weights: Mapping[str, Any], source: str) -> None:
    """Load weights of which every one must fit.

    Raises:
        CheckpointError: Keys are missing, unexpected or wrongly shaped; the error lists them.
    """
    report = compare(model, weights)
    if any(report.values()):
        raise CheckpointError(f"{source}: does not fit the model\n{describe_report(report)}")
    model.load_state_dict(dict(weights))


def load_what_fits(model: nn.Module, weights: Mapping[str, Any], source: str) -> str:
    """Load the weights that fit and say what was used.

    Raises:
        CheckpointError: Not one fits.
    """
    report = compare(model, weights)
    own = model.state_dict()
    unfit = {*report["unexpected"], *(line.split(":")[0] for line in report["wrong shape"])}
    used = {key: value for key, value in weights.items() if key not in unfit}
    if not used:
        raise CheckpointError(f"{source}: no weight fits the model\n{describe_report(report)}")
    model.load_state_dict(used, strict=False)
    lines = [f"{source}: {len(used)} of the model's {len(own)} weights were loaded"]
    return "\n".join([*lines, describe_report(report)]).rstrip()


def compare(model: nn.Module, weights: Mapping[str, Any]) -> dict[str, list[str]]:
    """List the keys of a state dict that do not fit a model, by kind."""
    own = model.state_dict()
    tensors = {key: value for key, value in weights.items() if isinstance(value, Tensor)}
    return {
        "missing": [key for key in own if key not in tensors],
        "unexpected": [key for key in weights if key not in own],
        "wrong shape": [
            f"{key}: {tuple(tensors[key].shape)} in the file, {tuple(value.shape)} in the model"
            for key, value in own.items()
            if key in tensors and tensors[key].shape != value.shape
        ],
    }


def describe_report(report: Mapping[str, Sequence[str]]) -> str:
    """Write what ``compare`` found as lines for the user; the first few keys of each kind."""
    lines = []
    for kind, keys in report.items():
        if keys:
            more = f"\n    ... and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
            shown = "\n    ".join(keys[:_SHOWN])
            lines.append(f"  {kind} ({len(keys)}):\n    {shown}{more}")
    return "\n".join(lines)


def weights_in(checkpoint: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """Return the state dict of a checkpoint, or the checkpoint itself where it is one.

    A leading ``module.`` of keys, which a wrapped model leaves, is taken off.

    Raises:
        CheckpointError: It holds no tensors.
    """
    inner = checkpoint.get("state_dict", checkpoint.get("model", checkpoint))
    tensors = {}
    if isinstance(inner, Mapping) and not isinstance(inner, Inert):
        tensors = {
            str(key).removeprefix("module."): value
            for key, value in inner.items()
            if isinstance(value, Tensor)
        }
    if not tensors:
        raise CheckpointError(
            f"{source}: holds no weights (keys: {', '.join(map(str, checkpoint))})"
        )
    return tensors
