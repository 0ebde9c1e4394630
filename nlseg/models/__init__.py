"""Networks and their parts, by the names that configs use."""

from nlseg.models.fuse import fuse_conv_bn
from nlseg.models.heads import BaseDecodeHead, FCNHead, GCHead, NLHead
from nlseg.models.losses import CrossEntropyLoss, accuracy
from nlseg.models.losses.samplers import (
    BasePixelSampler,
    OHEMPixelSampler,
    build_pixel_sampler,
)
from nlseg.models.preprocessor import SegDataPreProcessor
from nlseg.models.residual import BasicBlock, Bottleneck, ResLayer
from nlseg.models.resnet import ResNet, ResNetV1c, ResNetV1d
from nlseg.models.segmentor import EncoderDecoder
from nlseg.models.tta import SegTTAModel
from nlseg.ops.global_context import ContextBlock
from nlseg.ops.non_local import NonLocal2d

__all__ = [
    "BaseDecodeHead",
    "BasePixelSampler",
    "BasicBlock",
    "Bottleneck",
    "ContextBlock",
    "CrossEntropyLoss",
    "EncoderDecoder",
    "FCNHead",
    "GCHead",
    "NLHead",
    "NonLocal2d",
    "OHEMPixelSampler",
    "ResLayer",
    "ResNet",
    "ResNetV1c",
    "ResNetV1d",
    "SegDataPreProcessor",
    "SegTTAModel",
    "accuracy",
    "build_pixel_sampler",
    "fuse_conv_bn",
]
