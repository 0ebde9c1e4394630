"""Test-time augmentation: the mean class probability over several views of an image."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from mmengine.model import BaseTTAModel
from mmengine.structures import PixelData
from torch import Tensor, nn

from nlseg.bounds import Natural
from nlseg.extension import extension_point, overridden
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

    Where the segmentor, its head or a subclass of this class has its own way to the logits or to
    the merged result, every view is predicted alone and ``merge_preds`` is called.

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
        module = self.module
        if (
            overridden(self, "merge_preds")
            or not getattr(module, "streams", False)
            or overridden(module, "forward", "predict")
        ):
            merged: list[SegDataSample] = super().test_step(data)
            return merged
        views = [
            {"inputs": list(inputs), "data_samples": list(samples)}
            for inputs, samples in zip(data["inputs"], data["data_samples"], strict=True)
        ]
        for view in views[1:]:  # their labels are the first one's, and need not be copied
            view["data_samples"] = [
                SegDataSample(metainfo=s.metainfo) for s in view["data_samples"]
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
        return [
            self._labelled(sample, Averaged(in_order[i::number])) for i, sample in enumerate(first)
        ]

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

    @extension_point
    def merge_preds(
        self, data_samples_list: Sequence[Sequence[SegDataSample]]
    ) -> list[SegDataSample]:
        """Merge samples that hold ``seg_logits``, a list over images of lists over views."""
        return [self._merged(views) for views in data_samples_list]

    def _merged(self, views: Sequence[SegDataSample]) -> SegDataSample:
        maps = [view.seg_logits.data for view in views]
        if len(maps[0]) > 1:
            return self._labelled(views[0], Averaged([Held(logits) for logits in maps]))
        return self._labelled(views[0], Held(torch.stack(maps).mean(dim=0)))  # probabilities

    def _labelled(self, sample: SegDataSample, scores: RowSource) -> SegDataSample:
        label = label_map(scores, self.module.last_head.threshold)
        sample.pred_sem_seg = PixelData(data=label)
        return sample


def _pixels(images: Sequence[Tensor]) -> int:
    return sum(image[0].numel() for image in images)
