"""What every head does: choose features, classify pixels, compute losses, resize logits."""

import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypedDict

import torch
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn

from nlseg.bounds import Count, Probability, Range
from nlseg.checked import checked
from nlseg.errors import ConfigError
from nlseg.extension import check_overrides, extension_point, overridden
from nlseg.models.losses import LogitsForLoss, accuracy, percentage, works_on_small_logits
from nlseg.models.losses.samplers import works_without_upsampling
from nlseg.ops.resize import resize
from nlseg.registry import MODELS, TASK_UTILS, Cfg
from nlseg.structures import IGNORE_INDEX, SegDataSample, input_size

InputTransform = Literal["resize_concat", "multiple_select"]
Losses = dict[str, Tensor]

RELU: Cfg = {"type": "ReLU"}
CROSS_ENTROPY: Cfg = {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0}
SMALL_CLASSIFIER: Cfg = {"type": "Normal", "std": 0.01, "override": {"name": "conv_seg"}}

NOT_CALLED = {
    "transform_inputs": (
        ("_transform_inputs", "_forward_feature", "forward"),
        "write _transform_inputs(self, inputs)",
    ),
    "refine": (("_forward_feature", "forward"), "write _forward_feature(self, inputs)"),
    "losses": (
        ("loss_by_feat", "loss"),
        "write loss_by_feat(self, seg_logits, batch_data_samples)",
    ),
    "forward_train": (("loss",), "write loss(self, inputs, batch_data_samples, train_cfg)"),
    "forward_test": (("predict",), "write predict(self, inputs, batch_img_metas, test_cfg)"),
}
"""Methods that other versions call: from where a class may do so itself, and what to write."""


class DecodeHeadArgs(TypedDict, total=False):
    """Arguments that heads hand on; ``BaseDecodeHead`` says what they mean."""

    in_channels: int | Sequence[int]
    channels: int
    num_classes: int
    out_channels: int | None
    threshold: float | None
    dropout_ratio: float
    conv_cfg: Cfg | None
    norm_cfg: Cfg | None
    act_cfg: Cfg
    in_index: int | Sequence[int]
    input_transform: InputTransform | None
    loss_decode: Cfg | Sequence[Cfg]
    ignore_index: int
    sampler: Cfg | None
    align_corners: bool
    stream_loss: bool
    init_cfg: Cfg | list[Cfg] | None


@checked
class BaseDecodeHead(BaseModule, metaclass=ABCMeta):
    """Map backbone features to class logits; a subclass adds layers and ``forward``.

    A subclass may override ``_init_inputs``, ``_transform_inputs``, ``cls_seg``, ``loss``,
    ``_stack_batch_gt``, ``loss_by_feat``, ``predict`` and ``predict_by_feat``, too: they are called
    in training and in prediction as mmsegmentation calls them.

    Args:
        in_channels: Channels of the chosen feature map, or of each with an ``input_transform``.
        channels: Channels in front of the classifier ``conv_seg``.
        num_classes: Number of classes K.
        out_channels: Logits per pixel, K where None; 1 for two classes told apart by a threshold.
        threshold: Probability from which a single logit means class 1, 0.3 where None.
        dropout_ratio: Probability with which training drops a channel in front of the classifier;
            -1 is as good as 0.
        conv_cfg: Kind of convolution, ``nn.Conv2d`` where None.
        norm_cfg: Kind of norm; convolutions have a bias instead where None.
        act_cfg: Kind of activation.
        in_index: Which of the backbone's outputs, or which ones with an ``input_transform``.
        input_transform: 'resize_concat' resizes the chosen maps to the first one's size and
            concatenates them, 'multiple_select' hands on a list.
        loss_decode: Config of the loss, or of several.
        ignore_index: Label that does not train.
        sampler: Config of a pixel sampler.
        align_corners: How logits are resized, see ``nlseg.ops.resize``.
        stream_loss: Compute softmax cross-entropies and accuracy of the upsampled logits a block of
            rows at a time, so that the (N, K, H, W) map is never held; same values to rounding.
            Other losses take the plain path.
        init_cfg: How ``init_weights`` fills the parameters. By default the classifier is drawn from
            N(0, 0.01) and convolutions after Kaiming; None leaves every layer of the head at
            PyTorch's own initialisation, as SSSegmentation does.

    Raises:
        ConfigError: For ``out_channels`` or indices that do not fit together.
    """

    def __init__(
        self,
        in_channels: Count | Sequence[Count],
        channels: Count,
        *,
        num_classes: Count,
        out_channels: Count | None = None,
        threshold: Probability | None = None,
        dropout_ratio: Annotated[float, Range(0, 1, open_high=True, also=-1)] = 0.1,
        conv_cfg: Cfg | None = None,
        norm_cfg: Cfg | None = None,
        act_cfg: Cfg = RELU,
        in_index: int | Sequence[int] = -1,
        input_transform: InputTransform | None = None,
        loss_decode: Cfg | Sequence[Cfg] = CROSS_ENTROPY,
        ignore_index: int = IGNORE_INDEX,
        sampler: Cfg | None = None,
        align_corners: bool = False,
        stream_loss: bool = True,
        init_cfg: Cfg | list[Cfg] | None = SMALL_CLASSIFIER,
    ) -> None:
        super().__init__(init_cfg)
        self._init_inputs(in_channels, in_index, input_transform)
        self.channels = channels
        self.num_classes = num_classes
        self.out_channels = _out_channels(num_classes, out_channels)
        self.threshold = 0.3 if self.out_channels == 1 and threshold is None else threshold
        self.dropout_ratio = dropout_ratio
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.act_cfg = act_cfg
        self.ignore_index = ignore_index
        self.align_corners = align_corners
        self.stream_loss = stream_loss
        self.loss_decode = (
            MODELS.build(loss_decode)
            if isinstance(loss_decode, dict)
            else nn.ModuleList(MODELS.build(loss) for loss in loss_decode)
        )
        self.sampler = (
            TASK_UTILS.build(sampler, default_args={"context": self}) if sampler else None
        )
        self.conv_seg = nn.Conv2d(channels, self.out_channels, kernel_size=1)
        self.dropout = nn.Dropout2d(dropout_ratio) if dropout_ratio > 0 else None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Check what a subclass overrides, see ``nlseg.extension``."""
        super().__init_subclass__(**kwargs)
        check_overrides(cls, NOT_CALLED, may_take_more=("forward", "loss", "predict"))

    @abstractmethod
    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Map the backbone's feature maps to logits (N, K, h, w)."""

    def init_weights(self) -> None:
        """Fill the parameters as ``init_cfg`` says."""
        super().init_weights()
        if self.init_cfg is not None:
            return
        for child in self.children():
            if isinstance(child, ConvModule) or not hasattr(child, "init_weights"):
                for module in child.modules():
                    if isinstance(module, nn.Conv2d):
                        module.reset_parameters()

    @extension_point
    def _init_inputs(
        self,
        in_channels: int | Sequence[int],
        in_index: int | Sequence[int],
        input_transform: InputTransform | None,
    ) -> None:
        """Check and keep which of the backbone's outputs this head looks at."""
        _check_inputs(in_channels, in_index, input_transform)
        self.in_index = in_index
        self.input_transform = input_transform
        self.in_channels = (
            sum(in_channels)  # type: ignore[arg-type]
            if input_transform == "resize_concat"
            else in_channels
        )

    @extension_point
    def _transform_inputs(self, inputs: Sequence[Tensor]) -> Tensor:
        """Choose this head's input from the backbone's outputs."""
        if self.input_transform is None:
            return inputs[self.in_index]  # type: ignore[index]
        chosen = [inputs[i] for i in self.in_index]  # type: ignore[union-attr]
        if self.input_transform == "multiple_select":
            return chosen  # type: ignore[return-value]
        size = (chosen[0].shape[2], chosen[0].shape[3])
        return torch.cat([resize(x, size, align_corners=self.align_corners) for x in chosen], dim=1)

    def transform_inputs(self, inputs: Sequence[Tensor]) -> Tensor:
        """Choose this head's input; a subclass overrides ``_transform_inputs``."""
        return self._transform_inputs(inputs)

    def places(self, number: int) -> set[int] | None:
        """Return which of ``number`` feature maps this head looks at; None where it may be any."""
        if overridden(self, "forward", "_transform_inputs", "_forward_feature"):
            return None
        chosen = [self.in_index] if isinstance(self.in_index, int) else self.in_index
        return {i % number for i in chosen}

    @extension_point
    def cls_seg(self, feat: Tensor) -> Tensor:
        """Classify every position: (N, channels, h, w) to (N, K, h, w)."""
        if self.dropout is not None:
            feat = self.dropout(feat)
        logits: Tensor = self.conv_seg(feat)
        return logits

    @extension_point
    def loss(
        self,
        inputs: Sequence[Tensor],
        batch_data_samples: Sequence[SegDataSample],
        train_cfg: Mapping[str, Any] | None = None,
    ) -> Losses:
        """Return the head's losses and ``acc_seg`` from features and labels.

        Args:
            inputs: The backbone's feature maps.
            batch_data_samples: N samples with ``gt_sem_seg``, all of one size.
            train_cfg: The segmentor's, for heads that have settings there.
        """
        return self.loss_by_feat(self(inputs), batch_data_samples)

    @extension_point
    def _stack_batch_gt(self, batch_data_samples: Sequence[SegDataSample]) -> Tensor:
        """Return the labels (N, 1, H, W) of all samples."""
        return torch.stack([sample.gt_sem_seg.data for sample in batch_data_samples])

    @extension_point
    def loss_by_feat(
        self, seg_logits: Tensor, batch_data_samples: Sequence[SegDataSample]
    ) -> Losses:
        """Return losses by name and ``acc_seg`` (percent, shape (1,)) at the labels' resolution.

        Losses that can work on small logits are given those; the upsampled map is made once, where
        another loss or the sampler asks for it.

        Args:
            seg_logits: Logits (N, K, h, w).
            batch_data_samples: N samples with ``gt_sem_seg``, all of one size.
        """
        label = self._stack_batch_gt(batch_data_samples).squeeze(1).long()
        logits = LogitsForLoss(seg_logits, (label.shape[1], label.shape[2]), self.align_corners)
        small = [self.stream_loss and works_on_small_logits(loss) for loss in self.loss_modules()]
        weight = self._pixel_weight(logits, label)
        losses: Losses = {}
        correct: Tensor | None = None
        for loss, is_small in zip(self.loss_modules(), small, strict=True):
            if is_small:
                value, correct = loss.upsampled(
                    seg_logits,
                    label,
                    weight,
                    ignore_index=self.ignore_index,
                    align_corners=self.align_corners,
                )
            else:
                value = loss(logits.large, label, weight=weight, ignore_index=self.ignore_index)
            losses[loss.loss_name] = losses.get(loss.loss_name, 0) + value
        if correct is None:
            acc = accuracy(logits.large, label, self.ignore_index, self.threshold)
        else:
            acc = percentage(correct, (label != self.ignore_index).sum())
        losses["acc_seg"] = acc
        return losses

    def _pixel_weight(self, logits: LogitsForLoss, label: Tensor) -> Tensor | None:
        """Return the sampler's weight of each pixel (N, H, W), None without a sampler."""
        sampler = self.sampler
        if sampler is None:
            return None
        if self.stream_loss and works_without_upsampling(sampler):
            return sampler.sample_upsampled(logits.small, label, self.align_corners)
        weight: Tensor = sampler.sample(logits.large, label.unsqueeze(1))
        return weight

    def loss_modules(self) -> list[Any]:
        """Return the losses as a list."""
        losses = self.loss_decode
        return list(losses) if isinstance(losses, nn.ModuleList) else [losses]

    @extension_point
    def predict(
        self,
        inputs: Sequence[Tensor],
        batch_img_metas: Sequence[Mapping[str, Any]],
        test_cfg: Any = None,
    ) -> Tensor:
        """Return logits (N, K, H, W) of the size of the images.

        Args:
            inputs: The backbone's feature maps.
            batch_img_metas: Metainfo of each image, see ``predict_by_feat``.
            test_cfg: The segmentor's, for heads that have settings there.
        """
        return self.predict_by_feat(self(inputs), batch_img_metas)

    @extension_point
    def predict_by_feat(
        self, seg_logits: Tensor, batch_img_metas: Sequence[Mapping[str, Any]]
    ) -> Tensor:
        """Resize logits (N, K, h, w) to the size of the images.

        Args:
            seg_logits: The logits.
            batch_img_metas: Metainfo of each image, all of one size: ``img_shape`` where it is a
                ``torch.Size``, else ``pad_shape``, else ``img_shape``.
        """
        return resize(seg_logits, input_size(batch_img_metas[0]), align_corners=self.align_corners)


def _check_inputs(
    in_channels: int | Sequence[int],
    in_index: int | Sequence[int],
    input_transform: InputTransform | None,
) -> None:
    if input_transform is None:
        if not isinstance(in_channels, int) or not isinstance(in_index, int):
            raise ConfigError(
                f"head.in_channels, head.in_index: {in_channels}, {in_index} must be two numbers, "
                "or two lists with an input_transform"
            )
    elif isinstance(in_channels, int) or isinstance(in_index, int):
        raise ConfigError(
            f"head.in_channels, head.in_index: {input_transform} needs two lists, "
            f"not {in_channels}, {in_index}"
        )
    elif len(in_channels) != len(in_index):
        raise ConfigError(
            f"head.in_channels, head.in_index: {in_channels} and {in_index} differ in length"
        )


def _out_channels(num_classes: int, out_channels: int | None) -> int:
    if out_channels is None:
        if num_classes == 2:
            warnings.warn(
                "head.num_classes: for two classes, out_channels=1 with a threshold is an "
                "alternative to two logits",
                stacklevel=3,
            )
        return num_classes
    if out_channels == num_classes or (out_channels == 1 and num_classes == 2):
        return out_channels
    raise ConfigError(
        f"head.out_channels: {out_channels} is neither num_classes ({num_classes}) nor, for two "
        "classes, 1"
    )
