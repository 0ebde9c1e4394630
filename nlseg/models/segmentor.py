"""The segmentor: backbone and heads, and the way of a batch through them.

Training: images -> backbone features -> every head's losses. Prediction: images or windows of them
-> features -> the decode head's logits -> label map of the original size, a few rows at a time.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from mmengine.structures import PixelData
from torch import Tensor, nn

from nlseg.bounds import mismatches
from nlseg.errors import ConfigError
from nlseg.extension import check_overrides, extension_point, overridden
from nlseg.models.heads import BaseDecodeHead
from nlseg.models.heads.decode_head import Losses
from nlseg.models.inference import (
    Inference,
    InferenceCfg,
    completed,
    padding_of,
    resized,
    to_original,
)
from nlseg.models.resnet import ResNet
from nlseg.ops.logit_rows import Averaged, Held, RowSource, label_map, whole_map
from nlseg.ops.resize import Size
from nlseg.ops.sliding_window import Window, WindowMean, window_grid
from nlseg.registry import MODELS, Cfg
from nlseg.structures import SegDataSample
from nlseg.weights.pretrained import use_own_reader

Metainfos = Sequence[Mapping[str, Any]]
ForwardMode = Literal["loss", "predict", "tensor"]
Samples = list[SegDataSample]

HEAD_LOSSES = ("_decode_head_forward_train", "_auxiliary_head_forward_train")
LOGITS_OF_IMAGES = (
    "inference",
    "whole_inference",
    "slide_inference",
    "encode_decode",
    "postprocess_result",
)
NOT_CALLED: dict[str, tuple[tuple[str, ...], str]] = {
    "forward_train": (("forward", "loss"), "write loss(self, inputs, data_samples)"),
    "forward_test": (("forward", "predict"), "write predict(self, inputs, data_samples)"),
    "simple_test": (("forward", "predict"), "write predict(self, inputs, data_samples)"),
    "forward_dummy": (("forward", "_forward"), "write _forward(self, inputs, data_samples)"),
    "aug_test": ((), "subclass SegTTAModel and write merge_preds(self, data_samples_list)"),
}
"""Methods that other versions call: from where a class may do so itself, and what to write."""


@MODELS.register_module()
class EncoderDecoder(BaseModel):
    """Backbone, decode head and auxiliary heads.

    A subclass may override the methods of mmsegmentation's segmentors: they are called in training
    and in prediction as there.

    Args:
        backbone: Config of the backbone.
        decode_head: Config of the head that predicts; a subclass may take several.
        neck: Config of a module between backbone and heads.
        auxiliary_head: Config of a head, or of several, that only train.
        train_cfg: Settings for ``loss`` of a user's head; our heads have none.
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
        decode_head: Cfg | Sequence[Cfg],
        neck: Cfg | None = None,
        auxiliary_head: Cfg | Sequence[Cfg] | None = None,
        train_cfg: dict[str, Any] | None = None,
        test_cfg: InferenceCfg | None = None,
        data_preprocessor: Cfg | nn.Module | None = None,
        pretrained: str | None = None,
        init_cfg: Cfg | list[Cfg] | None = None,
    ) -> None:
        if isinstance(data_preprocessor, dict):
            data_preprocessor = MODELS.build(data_preprocessor)
        super().__init__(data_preprocessor, init_cfg)
        self._test_cfg: Inference
        if pretrained is not None:
            if backbone.get("pretrained") is not None:
                raise ConfigError("model.pretrained: the backbone's config gives it too")
            backbone = {**backbone, "pretrained": pretrained}
        self.backbone: nn.Module = MODELS.build(backbone)
        self.neck: nn.Module | None = MODELS.build(neck) if neck else None
        self._init_decode_head(decode_head)
        self.auxiliary_head: nn.Module | None = None
        if auxiliary_head:
            self._init_auxiliary_head(auxiliary_head)
        self.train_cfg = ConfigDict(train_cfg or {})
        self._check_train_cfg()
        self.test_cfg = Inference.from_cfg(test_cfg or {})
        if self.test_cfg.resize_once and not self.streams:
            raise ConfigError(
                "model.test_cfg.resize_once: needs the head's own logits, but "
                f"{type(self).__name__} or {type(self.last_head).__name__} makes full-size ones"
            )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Check what a subclass overrides, see ``nlseg.extension``."""
        super().__init_subclass__(**kwargs)
        check_overrides(cls, NOT_CALLED)

    @extension_point
    def _init_decode_head(self, decode_head: Any) -> None:
        """Build the decode head and note how its logits are made."""
        if not isinstance(decode_head, dict):
            raise ConfigError(
                f"model.decode_head: {type(self).__name__} takes one head, a dict; a list of "
                "heads is for CascadeEncoderDecoder"
            )
        self.decode_head: Any = MODELS.build(decode_head)
        self._note_head(self.decode_head)

    @property
    def test_cfg(self) -> Inference:
        """How images are evaluated; a dict that is assigned is read as the argument is."""
        return self._test_cfg

    @test_cfg.setter
    def test_cfg(self, settings: Inference | InferenceCfg) -> None:
        if isinstance(settings, Inference):
            self._test_cfg = settings
            return
        wrong = [  # a key that is not near one of ours is a user's
            found.at("model.test_cfg")
            for found in mismatches(settings, InferenceCfg)
            if found.hint or not found.is_key
        ]
        if wrong:
            raise ConfigError("\n".join(wrong))
        self._test_cfg = Inference.from_cfg(settings)

    def _note_head(self, head: BaseDecodeHead) -> None:
        self.align_corners = head.align_corners
        self.num_classes = head.num_classes
        self.out_channels = head.out_channels

    @extension_point
    def _init_auxiliary_head(self, auxiliary_head: Cfg | Sequence[Cfg]) -> None:
        """Build the head, or heads, that only train."""
        if isinstance(auxiliary_head, dict):
            self.auxiliary_head = MODELS.build(auxiliary_head)
        else:
            self.auxiliary_head = nn.ModuleList(MODELS.build(head) for head in auxiliary_head)

    def _check_train_cfg(self) -> None:
        """Refuse settings of training that no head or method of a user's can read."""
        heads = [head for _, head in self._heads()]
        reads = any(overridden(head, "loss") for head in heads if isinstance(head, BaseDecodeHead))
        if self.train_cfg and not reads and not overridden(self, "loss", *HEAD_LOSSES):
            raise ConfigError(f"model.train_cfg: has no keys, was given {sorted(self.train_cfg)}")

    def init_weights(self) -> None:
        """Fill the parameters as each module's ``init_cfg`` says."""
        use_own_reader(self)
        super().init_weights()

    @property
    def last_head(self) -> Any:
        """The head whose logits are the prediction."""
        head = self.decode_head
        return head[-1] if isinstance(head, nn.ModuleList) else head

    @property
    def streams(self) -> bool:
        """Whether predictions are made of the head's logits a few rows at a time.

        They are not where a subclass of the segmentor or of the head has its own way.
        """
        return not overridden(self, *LOGITS_OF_IMAGES) and not overridden(
            self.last_head, "predict", "predict_by_feat"
        )

    @property
    def with_neck(self) -> bool:
        """Whether there is a neck."""
        return self.neck is not None

    @property
    def with_auxiliary_head(self) -> bool:
        """Whether there are heads that only train."""
        return self.auxiliary_head is not None

    @property
    def with_decode_head(self) -> bool:
        """Whether there is a head that predicts."""
        return self.decode_head is not None

    @extension_point
    def forward(
        self,
        inputs: Tensor,
        data_samples: Samples | None = None,
        mode: ForwardMode = "tensor",
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
            return self._forward(inputs, data_samples)
        if mode == "predict":
            return self.predict(inputs, data_samples)
        if mode != "loss":
            raise ValueError(f"EncoderDecoder: mode {mode!r} is not 'loss', 'predict' or 'tensor'")
        if data_samples is None:
            raise ValueError("EncoderDecoder: mode 'loss' needs data_samples")
        return self.loss(inputs, data_samples)

    @extension_point
    def _forward(self, inputs: Tensor, data_samples: Samples | None = None) -> Tensor:
        """Map images (N, 3, H, W) to the decode head's logits (N, K, h, w)."""
        logits: Tensor = self.decode_head(self.extract_feat(inputs))
        return logits

    @extension_point
    def extract_feat(self, inputs: Tensor) -> Sequence[Tensor]:
        """Map images (N, 3, H, W) to the feature maps that heads choose from."""
        features: Sequence[Tensor] = self.backbone(inputs)
        if self.neck is not None:
            features = self.neck(features)
        return features

    @extension_point
    def loss(self, inputs: Tensor, data_samples: Samples) -> Losses:
        """Return the heads' losses and accuracies as ``decode.*`` and ``aux.*`` or ``aux_0.*``."""
        features = self.extract_feat(inputs)
        losses: Losses = {}
        if overridden(self, *HEAD_LOSSES):
            losses.update(self._decode_head_forward_train(features, data_samples))
            if self.with_auxiliary_head:
                losses.update(self._auxiliary_head_forward_train(features, data_samples))
            return losses
        for prefix, head in self._heads():
            values = head.loss(features, data_samples, self.train_cfg)
            losses.update({f"{prefix}.{name}": value for name, value in values.items()})
        return losses

    @extension_point
    def _decode_head_forward_train(self, inputs: Sequence[Tensor], data_samples: Samples) -> Losses:
        """Return the decode head's losses from features, as ``decode.*``."""
        return self._losses_of("decode", inputs, data_samples)

    @extension_point
    def _auxiliary_head_forward_train(
        self, inputs: Sequence[Tensor], data_samples: Samples
    ) -> Losses:
        """Return the other heads' losses from features, as ``aux.*`` or ``aux_0.*``."""
        return self._losses_of("aux", inputs, data_samples)

    def _losses_of(self, which: str, inputs: Sequence[Tensor], data_samples: Samples) -> Losses:
        losses: Losses = {}
        for prefix, head in self._heads():
            if prefix.startswith(which):
                values = head.loss(inputs, data_samples, self.train_cfg)
                losses.update({f"{prefix}.{name}": value for name, value in values.items()})
        return losses

    def _heads(self) -> list[tuple[str, BaseDecodeHead]]:
        heads: list[tuple[str, Any]] = [("decode", self.decode_head)]
        if isinstance(self.auxiliary_head, nn.ModuleList):
            heads += [(f"aux_{i}", head) for i, head in enumerate(self.auxiliary_head)]
        elif self.auxiliary_head is not None:
            heads.append(("aux", self.auxiliary_head))
        return heads

    @extension_point
    def predict(self, inputs: Tensor, data_samples: Samples | None = None) -> Samples:
        """Return one sample for each image with its label map in ``pred_sem_seg``.

        Its logits (K, H, W) are made when ``seg_logits`` is read. A subclass that has its own
        ``encode_decode``, ``whole_inference``, ``slide_inference``, ``inference`` or
        ``postprocess_result``, and a head that has its own ``predict`` or ``predict_by_feat``, are
        called for the logits of whole images; else no such map is made.

        Args:
            inputs: Images (N, 3, H, W).
            data_samples: Samples whose metainfo says what preprocessing did: ``ori_shape``,
                ``img_padding_size`` or ``padding_size``, ``flip`` and ``flip_direction``. Without
                them the images are taken as they are.
        """
        known = data_samples or [SegDataSample() for _ in inputs]
        metainfos = [sample.metainfo for sample in known]
        if not self.streams:
            logits = self.inference(inputs, completed(metainfos, _size(inputs)))
            return self.postprocess_result(logits, data_samples)
        for sample, rows in zip(known, self.logit_rows(inputs, metainfos), strict=True):
            self._label(sample, rows)
        return known

    @extension_point
    def inference(self, inputs: Tensor, batch_img_metas: Metainfos | None = None) -> Tensor:
        """Return logits (N, K, H, W) at the size of the images, as ``test_cfg`` says.

        Gradients flow through it to the images.

        Args:
            inputs: Images (N, 3, H, W).
            batch_img_metas: Metainfo of each image, for methods of users that read it.
        """
        metas = completed(batch_img_metas or [{} for _ in inputs], _size(inputs))
        if self.test_cfg.mode == "slide":
            return self.slide_inference(inputs, metas)
        return self.whole_inference(inputs, metas)

    @extension_point
    def whole_inference(self, inputs: Tensor, batch_img_metas: Metainfos) -> Tensor:
        """Return logits (N, K, H, W) of whole images; see ``inference``."""
        return self.encode_decode(inputs, batch_img_metas)

    @extension_point
    def slide_inference(self, inputs: Tensor, batch_img_metas: Metainfos) -> Tensor:
        """Return logits (N, K, H, W) averaged over overlapping windows; see ``inference``."""
        total: Tensor | None = None
        count = inputs.new_zeros(_size(inputs))
        for places, crops in self._windows(inputs):
            metas = [{**batch_img_metas[n], "img_shape": crops.shape[2:]} for n, _ in places]
            for (n, window), logits in zip(places, self.encode_decode(crops, metas), strict=True):
                if total is None:
                    total = inputs.new_zeros((len(inputs), len(logits), *_size(inputs)))
                rows = slice(window.top, window.bottom)
                columns = slice(window.left, window.right)
                total[n, :, rows, columns] += logits
                count[rows, columns] += n == 0
        assert total is not None
        return total / count

    @extension_point
    def encode_decode(self, inputs: Tensor, batch_img_metas: Metainfos) -> Tensor:
        """Return logits (N, K, H, W) of images, or windows of them; see ``inference``."""
        features = self.extract_feat(inputs)
        logits: Tensor = self.decode_head.predict(features, batch_img_metas, self.test_cfg)
        return logits

    @extension_point
    def postprocess_result(
        self, seg_logits: Tensor, data_samples: Samples | None = None
    ) -> Samples:
        """Undo padding, flips and resizing, and write label maps and logits into the samples.

        Args:
            seg_logits: Logits (N, K, H, W) of the network's input.
            data_samples: See ``predict``.
        """
        known = data_samples or [SegDataSample() for _ in seg_logits]
        for sample, logits in zip(known, seg_logits, strict=True):
            self._label(sample, to_original(Held(logits), sample.metainfo, self.align_corners))
        return known

    def logit_rows(
        self, inputs: Tensor, metainfos: Sequence[dict[str, Any]] | None = None
    ) -> list[RowSource]:
        """Run the network and return every image's logits, made row by row where they are read.

        Args:
            inputs: Images (N, 3, H, W).
            metainfos: What preprocessing did to the images, see ``predict``. Without them the
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
        parts: list[list[tuple[Window, RowSource]]] = [[] for _ in inputs]
        for places, crops in self._windows(inputs):
            for (n, window), logits in zip(places, self._head_logits(crops), strict=True):
                source = resized(Held(logits), _size(crops), self.align_corners)
                parts[n].append((window, source))
        return [WindowMean(_size(inputs), part) for part in parts]

    def _windows(self, inputs: Tensor) -> Iterator[tuple[Sequence[tuple[int, Window]], Tensor]]:
        """Yield batches of windows: whose they are and where, and what is seen in them."""
        crop, stride = self.test_cfg.crop_size, self.test_cfg.stride
        assert crop is not None
        assert stride is not None
        windows = window_grid(_size(inputs), crop, stride)
        places = [(n, window) for window in windows for n in range(len(inputs))]
        for start in range(0, len(places), self.test_cfg.window_batch):
            batch = places[start : start + self.test_cfg.window_batch]
            crops = [inputs[n, :, w.top : w.bottom, w.left : w.right] for n, w in batch]
            yield batch, torch.stack(crops)

    def _head_logits(self, inputs: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to the decode head's logits (N, K, h, w)."""
        logits: Tensor = self.decode_head(self._features_for(inputs, [self.decode_head]))
        return logits

    def _features_for(self, inputs: Tensor, heads: Sequence[BaseDecodeHead]) -> Sequence[Any]:
        """Map images to feature maps; those that no head looks at are freed early, as None."""
        backbone: Any = self.backbone
        plain = isinstance(backbone, ResNet) and not overridden(backbone, "forward")
        if self.training or not plain or self.with_neck or overridden(self, "extract_feat"):
            return self.extract_feat(inputs)
        wanted: set[int] = set()
        for head in heads:
            places = head.places(len(backbone.out_indices))
            if places is None:
                return self.extract_feat(inputs)
            wanted |= places
        features: Sequence[Any] = backbone(inputs, only=wanted)
        return features

    def _label(self, sample: SegDataSample, logits: RowSource) -> None:
        """Write the label map, and the logits or single probabilities for whoever reads them."""
        scores = Averaged([logits]) if self.out_channels == 1 else logits
        label = label_map(scores, self.last_head.threshold)
        sample.pred_sem_seg = PixelData(data=label)
        sample.set_logits_later(partial(_whole, scores))
        if self.test_cfg.return_logits:
            sample.seg_logits = _whole(scores)


def _size(x: Tensor) -> Size:
    return x.shape[-2], x.shape[-1]


def _whole(scores: RowSource) -> PixelData:
    return PixelData(data=whole_map(scores))
