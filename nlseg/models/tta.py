"""Test-time augmentation: the mean class probability over several views of an image."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from mmengine.model import BaseTTAModel
from mmengine.structures import PixelData
from torch import Tensor, nn

from nlseg.bounds import Natural
from nlseg.ops.logit_rows import Averaged, Held, RowSource, label_map
from nlseg.registry import MODELS
from nlseg.structures import SegDataSample

View = dict[str, Any]


@MODELS.register_module()
class SegTTAModel(BaseTTAModel):
    """Average a segmentor's class probabilities over the views of each image.

    Of each view the head's small logits are held. They are resized to the original image, turned
    into probabilities and averaged a few rows at a time, so that no map of K classes at full size
    is ever there. The result carries the label and metainfo of the first view.

    Args:
        module: The segmentor, or its config.
        data_preprocessor: Config of a preprocessor that replaces the segmentor's.
        max_pixels: Consecutive views of one size, such as an image and its mirror image, run as one
            batch while all their pixels together are not more than this. 0 runs every view alone.
    """

    def __init__(
        self,
        module: dict[str, Any] | nn.Module,
        data_preprocessor: dict[str, Any] | None = None,
        max_pixels: Natural = 1 << 20,
    ) -> None:
        if isinstance(module, dict):
            if data_preprocessor is not None:
                module = {**module, "data_preprocessor": data_preprocessor}
            module = MODELS.build(module)
        super().__init__(module)
        self.max_pixels = max_pixels

    def test_step(self, data: dict[str, Any]) -> list[SegDataSample]:
        """Return one sample with ``pred_sem_seg`` for each image.

        Args:
            data: ``inputs`` and ``data_samples``, each a list over views of lists over images.
        """
        views = [
            {"inputs": list(inputs), "data_samples": list(samples)}
            for inputs, samples in zip(data["inputs"], data["data_samples"], strict=True)
        ]
        first, number = views[0]["data_samples"], len(views[0]["data_samples"])
        batches = self._joined(views)
        sources: list[list[RowSource]] = [[] for _ in batches]
        # the largest first: what it frees holds all others, where memory is not given back
        for place in sorted(range(len(batches)), key=lambda i: -_pixels(batches[i]["inputs"])):
            batch = self.module.data_preprocessor(batches[place], False)
            metainfos = [sample.metainfo for sample in batch["data_samples"]]
            sources[place] = self.module.logit_rows(batch["inputs"], metainfos)
            if place == 0:
                first = batch["data_samples"][:number]
        in_order = list(chain.from_iterable(sources))
        return [self._labelled(sample, in_order[i::number]) for i, sample in enumerate(first)]

    def _joined(self, views: Sequence[View]) -> list[View]:
        """Join consecutive views of one size into batches of at most ``max_pixels``."""
        joined: list[View] = []
        for view in views:
            shapes = {image.shape for image in view["inputs"]}
            last = joined[-1]["inputs"] if joined else []
            both = [*last, *view["inputs"]]
            same = {image.shape for image in last} == shapes
            if last and same and _pixels(both) <= self.max_pixels:
                samples = [*joined[-1]["data_samples"], *view["data_samples"]]
                joined[-1] = {"inputs": both, "data_samples": samples}
            else:
                joined.append(view)
        return joined

    def merge_preds(
        self, data_samples_list: Sequence[Sequence[SegDataSample]]
    ) -> list[SegDataSample]:
        """Merge samples that hold ``seg_logits``, a list over images of lists over views."""
        return [
            self._labelled(views[0], [Held(view.seg_logits.data) for view in views])
            for views in data_samples_list
        ]

    def _labelled(self, sample: SegDataSample, views: Sequence[RowSource]) -> SegDataSample:
        label = label_map(Averaged(views), self.module.decode_head.threshold)
        sample.pred_sem_seg = PixelData(data=label)
        return sample


def _pixels(images: Sequence[Tensor]) -> int:
    return sum(image[0].numel() for image in images)
