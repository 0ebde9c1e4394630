"""Batch norms folded into the convolutions in front of them, for inference."""

from itertools import pairwise

import torch
from mmcv.cnn import ConvModule
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nlseg.models.residual import ResidualBlock


def fuse_conv_bn(model: nn.Module) -> nn.Module:
    """Fold every batch norm that directly follows a convolution into it, in place.

    Results stay equal to rounding; one pass over each map and one copy of it are saved. The model
    is put into evaluation mode, cannot train afterwards, and its parameters no longer fit a
    checkpoint: load the weights first.

    Args:
        model: Any module that holds ``ConvModule``, residual blocks or ``nn.Sequential``.
    """
    model.eval()
    for module in model.modules():
        for conv_name, norm_name in _pairs(module):
            conv, norm = getattr(module, conv_name), getattr(module, norm_name)
            if type(conv) is nn.Conv2d and _has_statistics(norm):
                with torch.no_grad():
                    setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
    return model


def _pairs(module: nn.Module) -> list[tuple[str, str]]:
    """Return the names of children of which the second takes nothing but the first's output."""
    if isinstance(module, ConvModule):
        direct = module.with_norm and module.order[:2] == ("conv", "norm")
        return [("conv", module.norm_name)] if direct else []
    if isinstance(module, ResidualBlock):
        return [(f"conv{i}", name) for i, name in enumerate(module.norm_names, 1)]
    if isinstance(module, nn.Sequential):
        names = [name for name, _ in module.named_children()]
        return list(pairwise(names))
    return []


def _has_statistics(norm: nn.Module) -> bool:
    return isinstance(norm, _BatchNorm) and norm.running_mean is not None
