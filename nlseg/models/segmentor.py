"""The segmentor: backbone and heads, and the way of a batch through them.

Training: images -> backbone features -> every head's losses. Prediction: images or windows of them
-> features -> the decode head's logits -> label map of the original size, a few rows at a time.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeVar

import torch
from mmengine.model import BaseModel
from mmengine.structures import PixelData
from torch import Tensor, nn

from nlseg.errors import ConfigError
from nlseg.models.heads import BaseDecodeHead
from nlseg.models.inference import Inference, InferenceCfg, padding_of, resized, to_original
from nlseg.models.resnet import ResNet
from nlseg.ops.logit_rows import Averaged, Held, RowSource, label_map, whole_map
from nlseg.ops.resize import Size
from nlseg.ops.sliding_window import Window, WindowMean, window_grid
from nlseg.registry import MODELS
from nlseg.structures import SegDataSample
from nlseg.weights.pretrained import use_own_reader

T = TypeVar("T")
Cfg = dict[str, Any]
Mode = Literal["loss", "predict", "tensor"]


@MODELS.register_module()
class EncoderDecoder(BaseModel):
    """Backbone, decode head and auxiliary heads.

    Args:
        backbone: Config of the backbone.
        decode_head: Config of the head that predicts.
        neck: Config of a module between backbone and heads.
        auxiliary_head: Config of a head, or of several, that only train.
        train_cfg: Has no keys.
        test_cfg: How images are evaluated, see ``Inference``.
        data_preprocessor: Config of the preprocessor.
        pretrained: File or URL of the backbone's weights.
        init_cfg: How ``init_weights`` fills the parameters.

    Raises:
        ConfigError: For unknown keys, or ``pretrained`` given twice.
    """

    def __init__(
        self,
        backbone: Cfg,
        decode_head: Cfg,
        neck: Cfg | None = None,
        auxiliary_head: Cfg | Sequence[Cfg] | None = None,
        train_cfg: dict[str, None] | None = None,
        test_cfg: InferenceCfg | None = None,
        data_preprocessor: Cfg | nn.Module | None = None,
        pretrained: str | None = None,
        init_cfg: Cfg | list[Cfg] | None = None,
    ) -> None:
        if isinstance(data_preprocessor, dict):
            data_preprocessor = MODELS.build(data_preprocessor)
        super().__init__(data_preprocessor, init_cfg)
        if train_cfg:
            raise ConfigError(f"model.train_cfg: has no keys, was given {sorted(train_cfg)}")
        if pretrained is not None:
            if backbone.get("pretrained") is not None:
                raise ConfigError("model.pretrained: the backbone's config gives it too")
            backbone = {**backbone, "pretrained": pretrained}
        self.backbone: nn.Module = MODELS.build(backbone)
        self.neck: nn.Module | None = MODELS.build(neck) if neck else None
        self.decode_head: BaseDecodeHead = MODELS.build(decode_head)
        self.auxiliary_head: nn.Module | None = None
        if isinstance(auxiliary_head, dict):
            self.auxiliary_head = MODELS.build(auxiliary_head)
        elif auxiliary_head:
            self.auxiliary_head = nn.ModuleList(MODELS.build(head) for head in auxiliary_head)
        self.test_cfg = Inference.from_cfg(test_cfg or {})

    def init_weights(self) -> None:
        """Fill the parameters as each module's ``init_cfg`` says."""
        use_own_reader(self)
        super().init_weights()

    @property
    def align_corners(self) -> bool:
        """How the decode head's logits are resized."""
        return self.decode_head.align_corners

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return self.decode_head.num_classes

    @property
    def out_channels(self) -> int:
        """Logits per pixel: K, or 1 for two classes told apart by a threshold."""
        return self.decode_head.out_channels

    def forward(
        self,
        inputs: Tensor,
        data_samples: list[SegDataSample] | None = None,
        mode: Mode = "tensor",
    ) -> Any:
        """Run the network on preprocessed images (N, 3, H, W).

        Args:
            inputs: The images.
            data_samples: One sample for each image, with labels in mode 'loss'.
            mode: 'loss' returns losses by name, 'predict' samples with label maps, 'tensor' the
                decode head's logits (N, K, h, w).

        Raises:
            ValueError: For another mode, or mode 'loss' without samples.
        """
        if mode == "tensor":
            return self.decode_head(self.extract_feat(inputs))
        if mode == "predict":
            return self.predict(inputs, data_samples)
        if mode != "loss":
            raise ValueError(f"EncoderDecoder: mode {mode!r} is not 'loss', 'predict' or 'tensor'")
        if data_samples is None:
            raise ValueError("EncoderDecoder: mode 'loss' needs data_samples")
        return self.loss(inputs, data_samples)

    def extract_feat(self, inputs: Tensor) -> Sequence[Tensor]:
        """Map images (N, 3, H, W) to the feature maps that heads choose from."""
        features: Sequence[Tensor] = self.backbone(inputs)
        if self.neck is not None:
            features = self.neck(features)
        return features

    def loss(self, inputs: Tensor, data_samples: list[SegDataSample]) -> dict[str, Tensor]:
        """Return the heads' losses and accuracies as ``decode.*`` and ``aux.*`` or ``aux_0.*``."""
        features = self.extract_feat(inputs)
        losses: dict[str, Tensor] = {}
        for prefix, head in self._heads():
            values = head.loss(features, data_samples)
            losses.update({f"{prefix}.{name}": value for name, value in values.items()})
        return losses

    def _heads(self) -> list[tuple[str, BaseDecodeHead]]:
        heads: list[tuple[str, Any]] = [("decode", self.decode_head)]
        if isinstance(self.auxiliary_head, nn.ModuleList):
            heads += [(f"aux_{i}", head) for i, head in enumerate(self.auxiliary_head)]
        elif self.auxiliary_head is not None:
            heads.append(("aux", self.auxiliary_head))
        return heads

    def predict(
        self, inputs: Tensor, data_samples: list[SegDataSample] | None = None
    ) -> list[SegDataSample]:
        """Return one sample for each image with its label map in ``pred_sem_seg``.

        Args:
            inputs: Images (N, 3, H, W).
            data_samples: Samples whose metainfo says what preprocessing did: ``ori_shape``,
                ``img_padding_size`` or ``padding_size``, ``flip`` and ``flip_direction``. Without
                them the images are taken as they are.
        """
        if data_samples is None:
            data_samples = [SegDataSample() for _ in inputs]
        metainfos = [sample.metainfo for sample in data_samples]
        for sample, logits in zip(data_samples, self.logit_rows(inputs, metainfos), strict=True):
            self._label(sample, logits)
        return data_samples

    def logit_rows(
        self, inputs: Tensor, metainfos: Sequence[dict[str, Any]] | None = None
    ) -> list[RowSource]:
        """Run the network and return every image's logits, made row by row where they are read.

        Args:
            inputs: Images (N, 3, H, W).
            metainfos: How to find back to the original images, see ``predict``. Without them the
                logits have the size of the inputs.
        """
        if self.test_cfg.mode == "slide":
            sources = self._slide(inputs)
        else:
            sources = [Held(logits) for logits in self._head_logits(inputs)]
        if metainfos is None:
            return [resized(source, _size(inputs), self.align_corners) for source in sources]
        restored = []
        for source, metainfo in zip(sources, metainfos, strict=True):
            if not self.test_cfg.resize_once or any(padding_of(metainfo)):
                source = resized(source, _size(inputs), self.align_corners)
            elif "ori_shape" not in metainfo:
                metainfo = {**metainfo, "ori_shape": _size(inputs)}
            restored.append(to_original(source, metainfo, self.align_corners))
        return restored

    def _slide(self, inputs: Tensor) -> list[RowSource]:
        """Run the network on windows and return every image's mean logits."""
        crop, stride = self.test_cfg.crop_size, self.test_cfg.stride
        assert crop is not None
        assert stride is not None
        windows = window_grid(_size(inputs), crop, stride)
        parts: list[list[tuple[Window, RowSource]]] = [[] for _ in inputs]
        places = [(n, window) for window in windows for n in range(len(inputs))]
        for batch in _batches(places, self.test_cfg.window_batch):
            crops = [inputs[n, :, w.top : w.bottom, w.left : w.right] for n, w in batch]
            for (n, window), logits in zip(
                batch, self._head_logits(torch.stack(crops)), strict=True
            ):
                source = resized(Held(logits), _size(crops[0]), self.align_corners)
                parts[n].append((window, source))
        return [WindowMean(_size(inputs), part) for part in parts]

    def _head_logits(self, inputs: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to the decode head's logits (N, K, h, w)."""
        if self.neck is None and isinstance(self.backbone, ResNet) and not self.training:
            features = self.backbone(
                inputs, only=self.decode_head.places(len(self.backbone.out_indices))
            )
        else:
            features = self.extract_feat(inputs)
        logits: Tensor = self.decode_head(features)
        return logits

    def inference(self, inputs: Tensor) -> Tensor:
        """Return logits (N, K, H, W) at the size of the images, as ``test_cfg`` says."""
        return torch.stack([whole_map(source) for source in self.logit_rows(inputs)])

    def _label(self, sample: SegDataSample, logits: RowSource) -> None:
        """Write the label map and, where asked for, the logits or single probabilities."""
        scores = Averaged([logits]) if self.out_channels == 1 else logits
        label = label_map(scores, self.decode_head.threshold)
        sample.pred_sem_seg = PixelData(data=label)
        if self.test_cfg.return_logits:
            sample.seg_logits = PixelData(data=whole_map(scores))


def _size(x: Tensor) -> Size:
    return x.shape[-2], x.shape[-1]


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
