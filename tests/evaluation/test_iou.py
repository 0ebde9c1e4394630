import json
import pathlib

import cv2
import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from mmengine.structures import PixelData
from PIL import Image

from nlseg.errors import ConfigError, DataError
from nlseg.evaluation import IoUMetric, iou
from nlseg.registry import METRICS
from nlseg.structures import SegDataSample
from tests.cases import each_case

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "iou.json").read_text())


def sample(pred, label=None, **meta):
    out = SegDataSample(metainfo=meta)
    out.pred_sem_seg = PixelData(data=torch.from_numpy(pred).long()[None])
    if label is not None:
        out.gt_sem_seg = PixelData(data=torch.from_numpy(label).long()[None])
    return out


def metric(num_classes, **kwargs):
    built = METRICS.build({"type": "IoUMetric", **kwargs})
    built.dataset_meta = {"classes": [f"class {i}" for i in range(num_classes)]}
    return built


def golden_images(name):
    arrays = np.load(GOLDEN / "iou.npz")
    end = "150" if name == "c150" else ""
    return arrays["preds" + end], arrays["labels" + end], int(end or 19)


@pytest.fixture
def logged(monkeypatch):
    lines = []
    monkeypatch.setattr(iou, "print_log", lambda line, **_: lines.append(line))
    return lines


@each_case("name", CASES)
def test_equals_mmsegmentation(name):
    preds, labels, num_classes = golden_images(name)
    ours = metric(num_classes, **CASES[name]["kwargs"])
    for pred, label in zip(preds, labels, strict=True):
        ours.process(None, [sample(pred, label).to_dict()])
    result = ours.evaluate(len(preds))
    assert {key: np.float32(value) for key, value in result.items()} == {
        key: np.float32(value) for key, value in CASES[name]["metrics"].items()
    }
    for key, values in CASES[name]["per_class"].items():
        np.testing.assert_allclose(ours.per_class[key], values, rtol=2e-6)


def test_starts_afresh_after_each_evaluation():
    ours = metric(2)
    ours.process(None, [sample(np.eye(2), 1 - np.eye(2))])
    assert ours.evaluate(1)["mIoU"] == 0
    ours.process(None, [sample(np.eye(2), np.eye(2))])
    assert ours.evaluate(1)["mIoU"] == 100


def test_repeated_images_are_noticed(logged):
    ours = metric(2)
    ours.process(None, [sample(np.eye(2), np.eye(2))] * 3)
    ours.evaluate(2)
    assert "3 images were counted but the data set has 2" in logged[0]


def test_stray_labels_are_noticed(logged):
    ours = metric(2)
    ours.process(None, [sample(np.eye(2), np.array([[1, 34], [34, 1]]))])
    ours.evaluate(1)
    assert "2 label pixels are neither a class 0..1 nor the ignore index 255" in logged[0]


def test_per_class_file(tmp_path):
    ours = metric(2, per_class_file=str(tmp_path / "new" / "scores.json"), prefix="val")
    ours.process(None, [sample(np.array([[0, 0, 0]]), np.array([[0, 0, 255]]))])
    assert ours.evaluate(1) == {"val/aAcc": 100, "val/mIoU": 100, "val/mAcc": 100}
    written = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert written["classes"][0] == {"name": "class 0", "IoU": 100, "Acc": 100}
    assert written["classes"][1] == {"name": "class 1", "IoU": None, "Acc": None}
    assert written["confusion"] == [[2, 0], [0, 0]]


def test_format_only_writes_what_was_predicted(tmp_path):
    ours = metric(150, format_only=True, output_dir=str(tmp_path))
    pred = np.array([[0, 149], [7, 8]])
    ours.dataset_meta["palette"] = [(i, 2, 3) for i in range(150)]
    ours.process(None, [sample(pred, img_path="/data/a.jpg", reduce_zero_label=True)])
    ours.process(None, [sample(pred, img_path="/data/b.jpg", reduce_zero_label=False)])
    assert ours.evaluate(2) == {}
    for name, shift in (("a", 1), ("b", 0)):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.mode == "P"
            assert (np.asarray(picture) == pred + shift).all()
            colours = np.asarray(picture.convert("RGB"))
        assert (colours[..., 0] == pred).all()
        assert (colours[..., 1:] == (2, 3)).all()
    ours.dataset_meta["palette"] = None
    ours.process(None, [sample(pred, img_path="/data/a.jpg", reduce_zero_label=True)])
    ours.process(None, [sample(pred, img_path="/data/b.jpg", reduce_zero_label=False)])
    assert ours.evaluate(2) == {}
    assert (cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED) == pred + 1).all()
    assert (cv2.imread(str(tmp_path / "b.png"), cv2.IMREAD_UNCHANGED) == pred).all()


def test_same_names_in_two_folders(tmp_path):
    pred = np.eye(2)
    flat = metric(2, format_only=True, output_dir=str(tmp_path / "flat"))
    flat.process(None, [sample(pred, img_path="/data/x/a.jpg")])
    with pytest.raises(DataError, match=r"/data/y/a.jpg: .*overwrite.*img_root"):
        flat.process(None, [sample(pred, img_path="/data/y/a.jpg")])
    deep = metric(2, format_only=True, output_dir=str(tmp_path / "deep"), img_root="/data")
    deep.process(None, [sample(pred, img_path=f"/data/{d}/a.jpg") for d in "xy"])
    assert (tmp_path / "deep/x/a.png").exists()
    assert (tmp_path / "deep/y/a.png").exists()


def test_image_without_label_is_refused():
    with pytest.raises(DataError, match=r"a.jpg: there is no label.*format_only=True"):
        metric(2).process(None, [sample(np.eye(2), img_path="a.jpg")])


def test_label_of_another_size_is_refused():
    with pytest.raises(DataError, match=r"a.jpg: the prediction is \(2, 2\), the label \(3, 3\)"):
        metric(2).process(None, [sample(np.eye(2), np.eye(3), img_path="a.jpg")])


def test_format_only_needs_a_place():
    with pytest.raises(ConfigError, match="output_dir"):
        IoUMetric(format_only=True)


def test_unknown_argument_is_refused():
    with pytest.raises(TypeError, match="iou_metric"):
        METRICS.build({"type": "IoUMetric", "iou_metric": ["mIoU"]})
    METRICS.build({"type": "IoUMetric", "keep_results": True, "collect_device": "gpu"})


def seven_images():
    rng = np.random.RandomState(0)
    return rng.randint(0, 3, (7, 5, 6)), rng.choice([0, 1, 2, 255], (7, 5, 6))


def run_rank(rank, world_size, folder):
    torch.distributed.init_process_group(
        "gloo", f"file://{folder}/store", rank=rank, world_size=world_size
    )
    ours = metric(3)
    for pred, label in list(zip(*seven_images(), strict=True))[rank::world_size]:
        ours.process(None, [sample(pred, label)])
    result = ours.evaluate(7)
    pathlib.Path(folder, f"{rank}.json").write_text(json.dumps([result, ours.confusion.tolist()]))
    torch.distributed.destroy_process_group()


def test_one_file_of_two_processes_is_noticed(tmp_path, monkeypatch):
    ours = metric(2, format_only=True, output_dir=str(tmp_path))
    ours.process(None, [sample(np.eye(2), img_path="/data/x/a.jpg")])
    other = {tmp_path / "a.png": "/data/y/a.jpg"}
    gather = "nlseg.evaluation.prediction_files.dist.all_gather_object"
    monkeypatch.setattr(gather, lambda mine: [mine, other])
    with pytest.raises(DataError, match=r"/data/y/a.jpg: .*overwrite"):
        ours.evaluate(2)


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 3])
def test_seven_images_over_ranks_are_exact(world_size, tmp_path):
    one = metric(3)
    one.process(None, [sample(p, t) for p, t in zip(*seven_images(), strict=True)])
    expected = [one.evaluate(7), one.confusion.tolist()]
    mp.spawn(run_rank, (world_size, str(tmp_path)), nprocs=world_size)
    for rank in range(world_size):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == expected


def test_areas_of_one_image_by_hand():
    # class 0: 1 px found of 2 predicted and 1 labelled; the pixel labelled 255 does not count
    pred, label = torch.tensor([[0, 0, 1], [1, 2, 2]]), torch.tensor([[0, 1, 1], [1, 2, 255]])
    areas = IoUMetric.intersect_and_union(pred, label, 4, 255)
    assert [area.tolist() for area in areas] == [
        [1, 2, 1, 0], [2, 3, 1, 0], [2, 2, 1, 0], [1, 3, 1, 0],
    ]  # fmt: skip
    scores = IoUMetric.total_area_to_metrics(*[a.float() for a in areas], ["mIoU", "mDice"], 0)
    np.testing.assert_allclose(scores["IoU"], [0.5, 2 / 3, 1, 0])
    np.testing.assert_allclose(scores["Dice"], [2 / 3, 0.8, 1, 0])
    assert scores["aAcc"] == pytest.approx(0.8)


class OwnProcess(IoUMetric):
    def process(self, data_batch, data_samples):
        for one in data_samples:
            pred = one.pred_sem_seg.data.squeeze()
            label = one.gt_sem_seg.data.squeeze().to(pred)
            self.results.append(self.intersect_and_union(pred, label, 3, self.ignore_index))


class OwnSum(IoUMetric):
    def compute_metrics(self, results):
        results = tuple(zip(*results, strict=True))
        assert len(results) == 4
        areas = [sum(part) for part in results]
        scores = self.total_area_to_metrics(*areas, self.metrics_wanted, None, 1)
        return {"mIoU": round(float(np.nanmean(scores["IoU"])) * 100, 2)}

    metrics_wanted = ("mIoU",)


class OwnAreas(IoUMetric):
    @classmethod
    def intersect_and_union(cls, pred_label, label, num_classes, ignore_index):
        cls.calls += 1
        return IoUMetric.intersect_and_union(pred_label, label, num_classes, ignore_index)

    calls = 0


class OwnScores(IoUMetric):
    @classmethod
    def total_area_to_metrics(cls, *areas, **options):
        scores = IoUMetric.total_area_to_metrics(*areas, **options)
        return {"aAcc": scores["aAcc"], "IoU": scores["IoU"] / 2}


@pytest.mark.parametrize("kind", [OwnProcess, OwnSum, OwnAreas, OwnScores])
def test_metrics_that_override_a_part_have_it_called(kind, logged):
    expected, own = metric(3), kind(collect_dir="unused")
    own.dataset_meta = expected.dataset_meta
    for pred, label in zip(*seven_images(), strict=True):
        expected.process(None, [sample(pred, label)])
        own.process(None, [sample(pred, label)])
    wanted = expected.evaluate(7)["mIoU"]
    result = own.evaluate(7)["mIoU"]
    assert result == pytest.approx(wanted / 2 if kind is OwnScores else wanted, abs=0.006)
    assert kind is not OwnAreas or OwnAreas.calls == 7
    assert not any("images were counted" in line for line in logged)
    assert own.results == []


def test_the_scores_asked_for_have_the_other_name_too():
    assert IoUMetric(iou_metrics=["mIoU", "mDice"]).metrics == ("mIoU", "mDice")
