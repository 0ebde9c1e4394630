"""SSSegmentation's NonLocal networks: the same tensors under other names.

Source: ``ssseg/modules/models/segmentors/nonlocalnet`` of SSSegmentation 1.7.0. Its files hold
``{'model': state_dict}``; classes come in the same order and images in the same colours as here.
Output stride 8 and 16 have equal names and shapes, so only the file's name and the config can say
which it is.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nlseg.errors import CheckpointError

_PREFIXES = {
    "backbone_net": "backbone",
    "conv_before_nl.0": "decode_head.convs.0.conv",
    "conv_before_nl.1": "decode_head.convs.0.bn",
    "nl_block.g.0": "decode_head.nl_block.g.conv",
    "nl_block.theta.0": "decode_head.nl_block.theta.conv",
    "nl_block.phi.0": "decode_head.nl_block.phi.conv",
    "nl_block.conv_out.0": "decode_head.nl_block.conv_out.conv",
    "nl_block.conv_out.1": "decode_head.nl_block.conv_out.bn",
    "conv_after_nl.0": "decode_head.convs.1.conv",
    "conv_after_nl.1": "decode_head.convs.1.bn",
    "decoder.0": "decode_head.conv_cat.conv",
    "decoder.1": "decode_head.conv_cat.bn",
    "decoder.4": "decode_head.conv_seg",
    "auxiliary_decoder.0": "auxiliary_head.convs.0.conv",
    "auxiliary_decoder.1": "auxiliary_head.convs.0.bn",
    "auxiliary_decoder.4": "auxiliary_head.conv_seg",
}
_STRIDES = {((1, 2, 1, 1), (1, 1, 2, 4)): 8, ((1, 2, 2, 1), (1, 1, 1, 2)): 16}


def rename(weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Give the weights of a NonLocal network of SSSegmentation the names that they have here.

    Raises:
        CheckpointError: A name is none of such a network; all of them are listed.
    """
    renamed, unknown = {}, []
    for key, value in weights.items():
        prefix = next((p for p in _PREFIXES if key.startswith(f"{p}.")), None)
        if prefix is None:
            unknown.append(key)
        else:
            renamed[_PREFIXES[prefix] + key.removeprefix(prefix)] = value
    if unknown:
        shown = ", ".join(unknown[:8]) + (f" and {len(unknown) - 8} more" * (len(unknown) > 8))
        raise CheckpointError(
            f"{source}: is no NonLocal network of SSSegmentation; it has no {shown}"
        )
    return renamed


def check_name(source: str, model: Mapping[str, Any]) -> int:
    """Compare what a file's name says with a config, and return the config's output stride.

    Args:
        source: The file, such as ``nonlocalnet_resnet50os8_ade20k.pth``.
        model: The config's ``model``.

    Raises:
        CheckpointError: Depth or output stride differ, or the config has neither stride 8 nor 16.
    """
    backbone = model["backbone"]
    settings = tuple(backbone.get("strides", ())), tuple(backbone.get("dilations", ()))
    stride = _STRIDES.get(settings)
    if stride is None:
        raise CheckpointError(
            f"{source}: the config's backbone has strides {settings[0]} and dilations "
            f"{settings[1]}; SSSegmentation has output strides 8 and 16: "
            + " or ".join(f"{s} and {d}" for s, d in _STRIDES)
        )
    named = re.search(r"resnet(\d+)os(8|16)(?!\d)", Path(source).name)
    if named is not None:
        pairs = (("depth", backbone.get("depth")), ("output stride", stride))
        for (name, given), digits in zip(pairs, named.groups(), strict=True):
            if int(digits) != given:
                raise CheckpointError(
                    f"{source}: its name says {name} {digits}, the config {given}; equal weights "
                    "give wrong results at another stride: take the config that belongs to it"
                )
    return stride
