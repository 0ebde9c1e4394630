import pytest
import torch
from mmengine.structures import PixelData

from nlseg.errors import ConfigError
from nlseg.models import SegDataPreProcessor
from nlseg.structures import SegDataSample
from tests.cases import each_case

MEAN, STD = [10.0, 20.0, 30.0], [1.0, 2.0, 4.0]


def image(height, width, value=(30, 20, 10)):
    """Return a BGR image of one colour, (3, H, W) uint8."""
    return torch.tensor(value, dtype=torch.uint8).view(3, 1, 1).expand(3, height, width)


def sample(height, width):
    return SegDataSample(gt_sem_seg=PixelData(data=torch.ones(1, height, width).long()))


def test_channels_are_swapped_and_normalised():
    preprocess = SegDataPreProcessor(MEAN, STD, bgr_to_rgb=True)
    out = preprocess({"inputs": [image(2, 3, (50, 24, 13))]})["inputs"]
    assert out.shape == (1, 3, 2, 3)
    assert out[0, :, 0, 0].tolist() == [3.0, 2.0, 5.0]  # (13-10)/1, (24-20)/2, (50-30)/4


def test_training_pads_below_and_to_the_right_after_normalisation():
    preprocess = SegDataPreProcessor(MEAN, STD, size=(4, 6), bgr_to_rgb=True, pad_val=7)
    samples = [sample(2, 3), sample(4, 6)]
    batch = {"inputs": [image(2, 3), image(4, 6)], "data_samples": samples}
    out = preprocess(batch, True)
    inside = torch.zeros(4, 6, dtype=torch.bool)
    inside[:2, :3] = True
    assert out["inputs"].shape == (2, 3, 4, 6)
    assert (out["inputs"][0, :, inside] == 0).all()
    assert (out["inputs"][0, :, ~inside] == 7).all()
    label = out["data_samples"][0].gt_sem_seg.data[0]
    assert (label[inside] == 1).all()
    assert (label[~inside] == 255).all()
    first = out["data_samples"][0]
    assert first.padding_size == (0, 3, 0, 2)
    assert first.img_shape == (2, 3)
    assert first.pad_shape == (4, 6)
    assert out["data_samples"][1].padding_size == (0, 0, 0, 0)


def test_labels_of_one_byte_train_as_those_of_eight():
    preprocess = SegDataPreProcessor(MEAN, STD, size=(3, 4), seg_pad_val=255)
    values = torch.tensor([[[0, 255, 7], [1, 2, 254]]])
    found = []
    for dtype in (torch.uint8, torch.int64):
        one = SegDataSample(gt_sem_seg=PixelData(data=values.to(dtype)))
        batch = {"inputs": [image(2, 3)], "data_samples": [one]}
        found.append(preprocess(batch, True)["data_samples"][0].gt_sem_seg.data)
    assert found[0].dtype == torch.int64
    assert torch.equal(*found)
    assert found[0].tolist() == [[[0, 255, 7, 255], [1, 2, 254, 255], [255] * 4]]


def test_centred_padding_puts_300x400_at_row_106_and_column_56_of_512x512():
    preprocess = SegDataPreProcessor(MEAN, STD, size=(512, 512), pad_mode="center", pad_val=5)
    batch = {"inputs": [image(300, 400, (10, 20, 30))], "data_samples": [sample(300, 400)]}
    out = preprocess(batch, True)
    rows, columns = (out["inputs"][0, 0] == 0).nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (106, 405, 56, 455)
    assert out["data_samples"][0].padding_size == (56, 56, 106, 106)
    assert (out["data_samples"][0].gt_sem_seg.data[0, 106:406, 56:456] == 1).all()
    assert out["data_samples"][0].gt_sem_seg.data.eq(1).sum() == 300 * 400


@pytest.mark.parametrize("channels_last", [False, True])
def test_one_stacked_tensor_gives_what_a_list_gives(channels_last):
    preprocess = SegDataPreProcessor(MEAN, STD, size_divisor=4, channels_last=channels_last)
    images = torch.randint(0, 256, (2, 3, 5, 6), dtype=torch.uint8)
    listed = preprocess(
        {"inputs": list(images), "data_samples": [sample(5, 6), sample(5, 6)]}, True
    )
    stacked = preprocess({"inputs": images, "data_samples": [sample(5, 6), sample(5, 6)]}, True)
    assert torch.equal(listed["inputs"], stacked["inputs"])
    assert listed["inputs"].shape == (2, 3, 8, 8)
    expected = torch.channels_last if channels_last else torch.contiguous_format
    assert listed["inputs"].is_contiguous(memory_format=expected)


def test_evaluation_pads_only_as_test_cfg_says():
    batch = {"inputs": [image(5, 6)], "data_samples": [sample(5, 6)]}
    out = SegDataPreProcessor(MEAN, STD, size=(9, 9))(batch)
    assert out["inputs"].shape == (1, 3, 5, 6)
    out = SegDataPreProcessor(MEAN, STD, test_cfg={"size_divisor": 4})(batch)
    assert out["inputs"].shape == (1, 3, 8, 8)
    assert out["data_samples"][0].img_padding_size == (0, 2, 0, 3)
    assert out["data_samples"][0].gt_sem_seg.data.shape == (1, 5, 6)


def test_larger_images_keep_their_size():
    preprocess = SegDataPreProcessor(MEAN, STD, size=(4, 4))
    out = preprocess({"inputs": [image(6, 3)], "data_samples": [sample(6, 3)]}, True)
    assert out["inputs"].shape == (1, 3, 6, 4)


def test_evaluation_images_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="batch_size=1"):
        SegDataPreProcessor(MEAN, STD)({"inputs": [image(2, 3), image(3, 2)]})


def test_there_are_no_parameters_to_save():
    assert not SegDataPreProcessor(MEAN, STD).state_dict()


@each_case(
    "arguments",
    [
        {"mean": MEAN},
        {"size": (4, 4), "size_divisor": 4},
        {"bgr_to_rgb": True, "rgb_to_bgr": True},
        {"pad_mode": "centre"},
        {"test_cfg": {"sise": (4, 4)}},
    ],
)
def test_contradictions_are_refused(arguments):
    with pytest.raises(ConfigError, match=r"(?i)data_?preprocessor"):
        SegDataPreProcessor(**arguments)
