"""What subclasses of transforms and data sets override is called, or refused by name."""

import numpy as np
import pytest
from mmengine.structures import PixelData

from nlseg.datasets import BaseSegDataset, MultiImageMixDataset, transforms
from nlseg.errors import ConfigError
from nlseg.evaluation import IoUMetric
from nlseg.registry import DATASETS, TRANSFORMS
from nlseg.run.hooks import SegVisualizationHook
from nlseg.structures import SampleIndex, SegDataSample
from nlseg.visualization import SegLocalVisualizer
from tests.cases import each_case
from tests.datasets.folders import LOAD, config, write_pairs

CROP = [*LOAD, {"type": "RandomCrop", "crop_size": (4, 4)}]
REFUSED = {
    "Resize": ("_resize_img", "_resize_seg", "_resize_bboxes"),
    "RandomCrop": ("crop_bbox", "crop"),
    "LoadAnnotations": ("_load_seg_map", "_load_bboxes", "_load_labels"),
    "RandomResize": ("_random_scale", "_random_sample"),
    "RandomChoiceResize": ("_random_select",),
    "RandomFlip": ("_choose_direction", "_flip", "_flip_on_direction"),
    "PhotoMetricDistortion": ("convert", "brightness", "contrast", "saturation", "hue"),
    "RandomRotate": ("generate_degree",),
    "RandomCutOut": ("do_cutout", "generate_patches"),
    "Pad": ("_pad_img", "_pad_seg"),
    "ResizeShortestEdge": ("_get_output_shape",),
    "RandomRotFlip": ("random_rot_flip", "random_rotate"),
    "RandomMosaic": ("_mosaic_combine",),
}
OTHERS = [
    *((BaseSegDataset, name) for name in ("parse_data_info", "_rand_another", "load_annotations")),
    *((BaseSegDataset, name) for name in ("pre_pipeline", "prepare_train_img", "evaluate")),
    *((BaseSegDataset, name) for name in ("CLASSES", "PALETTE")),
    (IoUMetric, "pre_eval_to_metrics"),
    (SegLocalVisualizer, "_get_center_loc"),
]
PAIRS = [(getattr(transforms, kind), name) for kind, names in REFUSED.items() for name in names]


def ignore(self, *args):
    """Do nothing."""


@each_case("base, name", PAIRS + OTHERS)
def test_what_is_never_called_is_refused_when_the_class_is_defined(base, name):
    with pytest.raises(ConfigError, match=rf"\.Mine\.{name}: is never called; .* "):
        type("Mine", (base,), {name: ignore})
    with pytest.raises(ConfigError, match=rf"\.Mine\.{name}: is never called; .* "):
        type("Mine", (type("Mixin", (), {name: ignore}), base), {})


def test_a_transform_may_have_such_a_method_and_call_it_itself():
    class Mine(transforms.RandomCrop):
        def transform(self, results):
            top, left = self.crop_bbox(results)
            return {"img": results["img"][top:, left:]}

        def crop_bbox(self, results):
            return 1, 2

    assert Mine(crop_size=4).transform({"img": np.zeros((5, 5, 3))})["img"].shape == (4, 3, 3)


def test_older_names_may_be_parts_of_the_class_description():
    described = {"CLASSES": ("a", "b"), "METAINFO": {"classes": ("a", "b")}}
    assert type("Mine", (BaseSegDataset,), described).METAINFO["classes"] == ("a", "b")


WAYS_TO_PREPARE = {
    "idx": lambda self, idx: {"mine": BaseSegDataset.prepare_data(self, idx)},
    "idx, number": lambda self, idx, number: {
        "mine": BaseSegDataset.prepare_data(self, idx, number)
    },
}


@pytest.mark.parametrize("way", WAYS_TO_PREPARE)
def test_a_users_preparation_is_called_with_what_it_takes_and_has_the_samples_draws(way, tmp_path):
    write_pairs(tmp_path, ["a"])
    child = type("Mine", (BaseSegDataset,), {"prepare_data": WAYS_TO_PREPARE[way]})
    DATASETS.register_module(module=child, force=True)
    cfg = config(tmp_path, pipeline=CROP, seed=3)
    ours, theirs = DATASETS.build(cfg), DATASETS.build({**cfg, "type": "Mine"})
    for number in range(5):
        index = SampleIndex(0, number)
        np.testing.assert_array_equal(theirs[index]["mine"]["img"], ours[index]["img"])


def test_the_partners_that_a_users_mosaic_draws_are_the_ones_mixed_in(tmp_path):
    drawn = []

    class Mine(transforms.RandomMosaic):
        def get_indices(self, dataset):
            drawn.append(len(dataset))
            return [0, 0, 0]

    TRANSFORMS.register_module(module=Mine, force=True)
    write_pairs(tmp_path, ["a", "b"])
    dataset = DATASETS.build(config(tmp_path, pipeline=LOAD))
    mosaic = {"type": "Mine", "prob": 1.0, "img_scale": (8, 8)}
    assert MultiImageMixDataset(dataset, [mosaic])[0]["img"].shape == (16, 16, 3)
    assert drawn == [len(dataset)]


def test_a_users_way_to_draw_a_label_map_is_called():
    class Mine(SegLocalVisualizer):
        def _draw_sem_seg(self, image, sem_seg, classes, palette, with_labels=True):
            assert (tuple(classes), sem_seg.data.shape) == (("a", "b"), (1, 4, 4))
            plain = super()._draw_sem_seg(image, sem_seg, classes, palette, with_labels)
            return np.full_like(plain, 7)

    mine = Mine(classes=("a", "b"), palette=[[0, 0, 0], [1, 1, 1]])
    sample = SegDataSample(pred_sem_seg=PixelData(data=np.zeros((1, 4, 4), np.int64)))
    sample.pred_sem_seg = sample.pred_sem_seg.to_tensor()
    assert (mine.draw(np.zeros((4, 4, 3), np.uint8), sample) == 7).all()


def test_what_a_user_does_after_each_picture_is_called():
    modes = []

    class Mine(SegVisualizationHook):
        def _after_iter(self, runner, batch_idx, data_batch, outputs, mode="val"):
            modes.append(mode)

    hook = Mine(draw=True)
    hook.after_val_iter(None, 0, None, [])
    hook.after_test_iter(None, 0, None, [])
    assert modes == ["val", "test"]
