"""What a head does that sees the output of the head before it."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from nlseg.extension import extension_point
from nlseg.models.heads.decode_head import BaseDecodeHead, Losses
from nlseg.structures import SegDataSample


class BaseCascadeDecodeHead(BaseDecodeHead):
    """A later stage of ``CascadeEncoderDecoder``; a subclass adds layers and ``forward``."""

    @abstractmethod
    def forward(  # type: ignore[override]
        self, inputs: Sequence[Tensor], prev_output: Tensor
    ) -> Tensor:
        """Map the backbone's feature maps and logits of the stage before to logits (N, K, h, w)."""

    @extension_point
    def loss(  # type: ignore[override]
        self,
        inputs: Sequence[Tensor],
        prev_output: Tensor,
        batch_data_samples: Sequence[SegDataSample],
        train_cfg: Mapping[str, Any] | None = None,
    ) -> Losses:
        """Return the head's losses and ``acc_seg``.

        Args:
            inputs: The backbone's feature maps.
            prev_output: Logits of the stage before.
            batch_data_samples: N samples with ``gt_sem_seg``, all of one size.
            train_cfg: The segmentor's, for heads that have settings there.
        """
        return self.loss_by_feat(self(inputs, prev_output), batch_data_samples)

    @extension_point
    def predict(  # type: ignore[override]
        self,
        inputs: Sequence[Tensor],
        prev_output: Tensor,
        batch_img_metas: Sequence[Mapping[str, Any]],
        test_cfg: Any = None,
    ) -> Tensor:
        """Return logits (N, K, H, W) of the size of the images.

        Args:
            inputs: The backbone's feature maps.
            prev_output: Logits of the stage before.
            batch_img_metas: Metainfo of each image, see ``predict_by_feat``.
            test_cfg: The segmentor's, for heads that have settings there.
        """
        return self.predict_by_feat(self(inputs, prev_output), batch_img_metas)
