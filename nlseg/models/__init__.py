"""Networks and their parts, by the names that configs use."""

from nlseg.models.fuse import fuse_conv_bn
from nlseg.models.heads import BaseDecodeHead, FCNHead, GCHead, NLHead
from nlseg.models.losses import CrossEntropyLoss, accuracy
from nlseg.models.losses.samplers import OHEMPixelSampler
from nlseg.models.preprocessor import SegDataPreProcessor
from nlseg.models.resnet import ResNet, ResNetV1c, ResNetV1d
from nlseg.models.segmentor import EncoderDecoder
from nlseg.models.tta import SegTTAModel
from nlseg.ops.global_context import ContextBlock
from nlseg.ops.non_local import NonLocal2d

__all__ = [
    "BaseDecodeHead",
    "ContextBlock",
    "CrossEntropyLoss",
    "EncoderDecoder",
    "FCNHead",
    "GCHead",
    "NLHead",
    "NonLocal2d",
    "OHEMPixelSampler",
    "ResNet",
    "ResNetV1c",
    "ResNetV1d",
    "SegDataPreProcessor",
    "SegTTAModel",
    "accuracy",
    "fuse_conv_bn",
]
