"""Networks and their parts, by the names that configs use."""

from nlseg.models.cascade import CascadeEncoderDecoder
from nlseg.models.fuse import fuse_conv_bn
from nlseg.models.heads import (
    BaseCascadeDecodeHead,
    BaseDecodeHead,
    DepthwiseSeparableFCNHead,
    DNLHead,
    FCNHead,
    GCHead,
    NLHead,
)
from nlseg.models.losses import (
    BoundaryLoss,
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    HuasdorffDisstanceLoss,
    KLDivLoss,
    LovaszLoss,
    OhemCrossEntropy,
    TverskyLoss,
    accuracy,
)
from nlseg.models.losses.samplers import (
    BasePixelSampler,
    OHEMPixelSampler,
    build_pixel_sampler,
)
from nlseg.models.preprocessor import SegDataPreProcessor
from nlseg.models.residual import BasicBlock, Bottleneck, ResLayer
from nlseg.models.resnet import ResNet, ResNetV1c, ResNetV1d
from nlseg.models.segmentor import EncoderDecoder
from nlseg.models.timm_backbone import TIMMBackbone
from nlseg.models.tta import SegTTAModel
from nlseg.ops.disentangled import DisentangledNonLocal2d
from nlseg.ops.global_context import ContextBlock
from nlseg.ops.non_local import NonLocal2d

__all__ = [
    "BaseCascadeDecodeHead",
    "BaseDecodeHead",
    "BasePixelSampler",
    "BasicBlock",
    "Bottleneck",
    "BoundaryLoss",
    "CascadeEncoderDecoder",
    "ContextBlock",
    "CrossEntropyLoss",
    "DNLHead",
    "DepthwiseSeparableFCNHead",
    "DiceLoss",
    "DisentangledNonLocal2d",
    "EncoderDecoder",
    "FCNHead",
    "FocalLoss",
    "GCHead",
    "HuasdorffDisstanceLoss",
    "KLDivLoss",
    "LovaszLoss",
    "NLHead",
    "NonLocal2d",
    "OHEMPixelSampler",
    "OhemCrossEntropy",
    "ResLayer",
    "ResNet",
    "ResNetV1c",
    "ResNetV1d",
    "SegDataPreProcessor",
    "SegTTAModel",
    "TIMMBackbone",
    "TverskyLoss",
    "accuracy",
    "build_pixel_sampler",
    "fuse_conv_bn",
]
