"""A segmentor of several decode heads, each of which sees the output of the one before."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from nlseg.bounds import Count
from nlseg.errors import ConfigError
from nlseg.extension import extension_point
from nlseg.models.heads.decode_head import Losses
from nlseg.models.inference import InferenceCfg
from nlseg.models.segmentor import EncoderDecoder, Metainfos, Samples
from nlseg.registry import MODELS, Cfg


@MODELS.register_module()
class CascadeEncoderDecoder(EncoderDecoder):
    """Backbone, decode heads in a chain, and auxiliary heads.

    The first head sees the backbone's features, each further one the logits of the one before, too
    (see ``BaseCascadeDecodeHead``). All train; the last one predicts.

    Args:
        num_stages: Number of decode heads.
        backbone: Config of the backbone.
        decode_head: Config of each head.
        neck: Config of a module between backbone and heads.
        auxiliary_head: Config of a head, or of several, that only train.
        train_cfg: Settings for ``loss`` of a user's head; our heads have none.
        test_cfg: How images are evaluated, see ``Inference``.
        data_preprocessor: Config of the preprocessor.
        pretrained: File or URL of the backbone's weights.
        init_cfg: How ``init_weights`` fills the parameters.

    Raises:
        ConfigError: For another number of heads than ``num_stages``.
    """

    def __init__(
        self,
        num_stages: Count,
        backbone: Cfg,
        decode_head: Sequence[Cfg],
        neck: Cfg | None = None,
        auxiliary_head: Cfg | Sequence[Cfg] | None = None,
        train_cfg: dict[str, Any] | None = None,
        test_cfg: InferenceCfg | None = None,
        data_preprocessor: Cfg | nn.Module | None = None,
        pretrained: str | None = None,
        init_cfg: Cfg | list[Cfg] | None = None,
    ) -> None:
        self.num_stages = num_stages  # before the parent, whose constructor adds the heads
        super().__init__(
            backbone,
            decode_head,
            neck,
            auxiliary_head,
            train_cfg,
            test_cfg,
            data_preprocessor,
            pretrained,
            init_cfg,
        )

    @extension_point
    def _init_decode_head(self, decode_head: Any) -> None:
        """Build the heads and note how the last one's logits are made."""
        if len(decode_head) != self.num_stages:
            raise ConfigError(
                f"model.decode_head: {len(decode_head)} heads for num_stages={self.num_stages}"
            )
        self.decode_head = nn.ModuleList(MODELS.build(head) for head in decode_head)
        self._note_head(self.decode_head[-1])

    def _heads(self) -> list[tuple[str, Any]]:
        stages = [(f"decode_{i}", head) for i, head in enumerate(self.decode_head)]
        return [*stages, *super()._heads()[1:]]

    def _decode_head_forward_train(self, inputs: Sequence[Tensor], data_samples: Samples) -> Losses:
        """Return every stage's losses, as ``decode_0.*`` and so on."""
        losses: Losses = {}
        before: list[Tensor] = []
        for i, head in enumerate(self.decode_head):
            values = head.loss(inputs, *before, data_samples, self.train_cfg)
            losses.update({f"decode_{i}.{name}": value for name, value in values.items()})
            if i < self.num_stages - 1:  # run again, as in mmsegmentation: a loss returns no logits
                before = [head(inputs, *before)]
        return losses

    @extension_point
    def _forward(self, inputs: Tensor, data_samples: Samples | None = None) -> Tensor:
        """Map images (N, 3, H, W) to the last head's logits (N, K, h, w)."""
        return self._head_logits(inputs)

    @extension_point
    def encode_decode(self, inputs: Tensor, batch_img_metas: Metainfos) -> Tensor:
        """Return logits (N, K, H, W) of images, or windows of them; see ``inference``."""
        features = self.extract_feat(inputs)
        before = self._chain(features, list(self.decode_head[:-1]))
        logits: Tensor = self.decode_head[-1].predict(
            features, *before, batch_img_metas, self.test_cfg
        )
        return logits

    def _head_logits(self, inputs: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to the last head's logits (N, K, h, w)."""
        heads = list(self.decode_head)
        return self._chain(self._features_for(inputs, heads), heads)[0]

    @staticmethod
    def _chain(features: Sequence[Tensor], heads: Sequence[Any]) -> list[Tensor]:
        """Return the last of some heads' logits, or nothing without a head."""
        before: list[Tensor] = []
        for head in heads:
            before = [head(features, *before)]
        return before
