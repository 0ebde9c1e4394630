import cv2
import numpy as np
import pytest
from mmengine.config import Config

from nlseg.datasets import permutation
from nlseg.doctor.browsing import LONGEST, Browser, only_loading, unpack
from nlseg.errors import ConfigError
from nlseg.registry import DATASETS
from nlseg.structures import SampleIndex
from nlseg.visualization.pages import browse_page
from nlseg.visualization.pictures import fit_longest
from tests.doctor.damaged import make_config, make_data, make_image, make_label


@pytest.fixture
def config(tmp_path):
    make_data(tmp_path)
    config = make_config(tmp_path)
    for split, step in (("train", "RandomFlip"), ("val", "Resize")):
        settings = {"RandomFlip": {"prob": 0.5}, "Resize": {"scale": (64, 48)}}[step]
        pipeline = config[f"{split}_dataloader"].dataset.pipeline
        where = 2 if split == "train" else 1
        pipeline.insert(where, {"type": step, **settings})
        pipeline.append({"type": "PackSegInputs"})
    return config


def test_training_rows_are_the_stream_of_that_seed(config):
    rows = list(Browser(config, seed=3).rows(3, num_draws=2))
    order = permutation(3, 0, 4)[:3].tolist()
    assert [row[0].caption for row in rows] == [str(i) for i in order]
    assert [len(row) for row in rows] == [4, 4, 4]
    assert (rows[0][0].picture == fit_longest(make_image(order[0]), LONGEST)).all()
    dataset = DATASETS.build(config.train_dataloader.dataset)
    dataset.set_seed(3)
    browser = Browser(config, seed=3, alpha=0.0)
    for number, row in enumerate(browser.rows(3, num_draws=1)):
        picture, label = unpack(dataset[SampleIndex(order[number], number)])
        flipped = (label != make_label(order[number])).any()
        expected = make_image(order[number])[:, ::-1] if flipped else make_image(order[number])
        assert (picture == expected).all()
        shown = fit_longest(picture, LONGEST)
        assert np.mean(row[2].picture == shown) > 0.5  # names are written over some of it


def test_mixed_samples_stand_beside_the_stored_one(config):
    inner = config.train_dataloader.dataset
    *inner.pipeline, pack = inner.pipeline
    mosaic = {"type": "RandomMosaic", "prob": 1.0, "img_scale": (20, 30)}
    config.train_dataloader.dataset = {
        "type": "MultiImageMixDataset", "dataset": inner, "pipeline": [mosaic, pack],
    }  # fmt: skip
    (row,) = Browser(config, seed=3).rows(1, num_draws=1)
    number = int(permutation(3, 0, 4)[0])
    assert (row[0].picture == fit_longest(make_image(number), LONGEST)).all()
    assert [cell.caption for cell in row] == [str(number), "label", "augmented, 40 x 60 px"]


def test_label_is_laid_over_a_resized_test_image(config):
    (row,) = Browser(config, "val").rows(1)
    assert [cell.caption for cell in row] == ["0", "label", "48 x 64 px"]
    assert row[2].picture.shape == (360, 480, 3)  # however small the image


def test_a_split_that_is_not_there(config):
    with pytest.raises(ConfigError, match="test_dataloader: the config has none"):
        Browser(config, "test")


def test_only_loading_reaches_inside_joined_data_sets():
    part = {"pipeline": [{"type": "mmcv.LoadImageFromFile"}, {"type": "RandomFlip"}]}
    nested = {"dataset": {"datasets": [part, part]}}
    kept = only_loading(Config(nested).to_dict())["dataset"]["datasets"][1]["pipeline"]
    assert [step["type"] for step in kept] == ["mmcv.LoadImageFromFile", "PackSegInputs"]
    with pytest.raises(ConfigError, match="has none of LoadImageFromFile"):
        only_loading({"pipeline": [{"type": "RandomFlip"}]})


def test_the_tensor_of_the_network_is_shown_with_its_padding(config, tmp_path):
    config.model.data_preprocessor.update(
        type="SegDataPreProcessor", size=(40, 48), bgr_to_rgb=True, mean=[10.0, 20, 30]
    )
    folder = tmp_path / "full"
    (row,) = Browser(config, seed=3, full_size=folder).rows(1, num_draws=1)
    tensor = row[-1]
    assert tensor.caption.startswith("tensor, 40 x 48 px, ")
    assert tensor.caption.endswith(", 16 rows and 16 columns of padding")
    # padding is 0 behind the normalisation, so the mean's colour; its label is ignored,
    # which is shown dark: 1 - alpha = 0.4 of the colour
    padding = cv2.imread(str(folder / "0000_3.png"))[-3:, -3:, ::-1]
    assert (padding == [4, 8, 12]).all()
    # no class is painted on it, but for the names
    whole = cv2.imread(str(folder / "0000_3.png"))[..., ::-1]
    outside = np.concatenate([whole[24:].reshape(-1, 3), whole[:24, 32:].reshape(-1, 3)])
    assert (outside == [4, 8, 12]).all(1).mean() > 0.6
    assert [cell.link for cell in row] == [f"full/0000_{i}.png" for i in range(4)]
    assert cv2.imread(str(folder / "0000_0.png")).shape == (24, 32, 3)
    page = browse_page([row], title="samples", classes=["a"], palette=np.zeros((1, 3), np.uint8))
    assert page.count('<a href="full/0000_') == 4


def test_a_test_image_is_padded_as_in_evaluation(config):
    config.model.data_preprocessor.update(
        type="SegDataPreProcessor", size=(40, 48), test_cfg={"size_divisor": 32}
    )
    (row,) = Browser(config, "val").rows(1)
    assert "tensor, 64 x 64 px" in row[-1].caption
    assert "16 rows and 0 columns of padding" in row[-1].caption
