import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import PixelData

from nlseg.errors import ConfigError, DataError
from nlseg.evaluation import cityscapes
from nlseg.evaluation.cityscapes import CityscapesMetric, label_id_file, to_label_ids
from nlseg.registry import METRICS
from nlseg.structures import SegDataSample


def sample(folder, name, pred):
    meta = {
        "img_path": str(folder / f"{name}_leftImg8bit.png"),
        "seg_map_path": str(folder / f"{name}_gtFine_labelTrainIds.png"),
    }
    out = SegDataSample(metainfo=meta)
    out.pred_sem_seg = PixelData(data=torch.from_numpy(pred).long()[None])
    return out


def write_truth(folder, name, train_ids, instances):
    label_ids = to_label_ids(train_ids)
    cv2.imwrite(str(folder / f"{name}_gtFine_labelIds.png"), label_ids)
    ids = np.where(instances > 0, label_ids.astype(np.uint16) * 1000 + instances, label_ids)
    cv2.imwrite(str(folder / f"{name}_gtFine_instanceIds.png"), ids.astype(np.uint16))


def test_label_ids_by_hand():
    train_ids = np.array([[0, 10, 13, 18, 255, 19, -1]])
    assert to_label_ids(train_ids).tolist() == [[7, 23, 26, 33, 0, 0, 0]]


def test_label_ids_equal_the_official_table():
    labels = pytest.importorskip("cityscapesscripts.helpers.labels")
    official = [labels.trainId2label[i].id for i in range(19)]
    assert to_label_ids(np.arange(19)).tolist() == official


def test_format_only_writes_label_ids(tmp_path):
    metric = METRICS.build(
        {
            "type": "CityscapesMetric",
            "output_dir": str(tmp_path / "out"),
            "format_only": True,
            "keep_results": True,
        }
    )
    metric.process(None, [sample(tmp_path, "a", np.array([[0, 13]])).to_dict()])
    assert metric.evaluate(1) == {}
    written = cv2.imread(str(tmp_path / "out/a_leftImg8bit.png"), cv2.IMREAD_UNCHANGED)
    assert written.tolist() == [[7, 26]]


def test_official_evaluation_by_hand(tmp_path):
    pytest.importorskip("cityscapesscripts")
    # Road 4 px and a car of 4 px; one car pixel is taken for road: IoU road 4/5, car 3/4.
    truth = np.array([[0, 0, 0, 0], [13, 13, 13, 13]])
    pred = np.array([[0, 0, 0, 0], [13, 13, 13, 0]])
    write_truth(tmp_path, "a", truth, np.array([[0] * 4, [1] * 4]))
    metric = CityscapesMetric(str(tmp_path / "out"), prefix="cs")
    metric.process(None, [sample(tmp_path, "a", pred)])
    scores = metric.evaluate(1)
    assert scores["cs/averageScoreClasses"] == pytest.approx((4 / 5 + 3 / 4) / 2)
    assert scores["cs/averageScoreInstClasses"] == pytest.approx(3 / 4)
    assert scores["cs/averageScoreCategories"] == pytest.approx((4 / 5 + 3 / 4) / 2)
    assert not list((tmp_path / "out").iterdir())
    assert getattr(np, "in1d", None) is not np.isin  # lent for the call only


def test_repeated_images_count_once(tmp_path, monkeypatch):
    scored = []

    def score(predictions, truths):
        scored.extend(zip(predictions, truths, strict=True))
        return dict.fromkeys(cityscapes.AVERAGES, 0.5)

    monkeypatch.setattr(cityscapes, "_official_scores", score)
    metric = CityscapesMetric(str(tmp_path))
    metric.process(None, [sample(tmp_path, name, np.zeros((2, 2))) for name in "aba"])
    metric.evaluate(2)
    assert [truth.rsplit("/", 1)[1][0] for _, truth in scored] == ["a", "b"]


def test_missing_truth_is_reported(tmp_path):
    pytest.importorskip("cityscapesscripts")
    metric = CityscapesMetric(str(tmp_path / "out"), keep_results=True)
    metric.process(None, [sample(tmp_path, "a", np.array([[0, 13]]))])
    with pytest.raises(DataError, match="cityscapesscripts stopped"):
        metric.evaluate(1)
    assert (tmp_path / "out/a_leftImg8bit.png").exists()


def test_other_names_are_refused():
    with pytest.raises(DataError, match=r"x/a.png: .*_labelIds.png.*use IoUMetric"):
        label_id_file("x/a.png")


def test_files_for_the_server_are_kept():
    with pytest.raises(ConfigError, match="keep_results must be True"):
        CityscapesMetric("out", format_only=True)
