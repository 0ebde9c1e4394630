import hashlib

import cv2
import numpy as np
import pytest
import torch

from nlseg.registry import MODELS
from nlseg.structures import SegDataSample
from tests.models import recorded as rec

torch.set_num_threads(1)


def views():
    """Make the twelve recorded views (six scales, plain and mirrored) of the recorded image."""
    image = cv2.imread(str(rec.GOLDEN / "tta_img.png"))
    inputs, samples = [], []
    for (_, height, width), flip, digest in rec.golden()["tta_views"]:
        view = cv2.resize(image, (width, height)) if image.shape[0] != height else image
        view = np.ascontiguousarray((view[:, ::-1] if flip else view).transpose(2, 0, 1))
        assert hashlib.sha256(view.tobytes()).hexdigest() == digest
        metainfo = {"ori_shape": image.shape[:2], "flip": flip}
        metainfo["flip_direction"] = "horizontal" if flip else None
        inputs.append([torch.from_numpy(view)])
        samples.append([SegDataSample(metainfo=metainfo)])
    return {"inputs": inputs, "data_samples": samples}


@pytest.mark.parametrize("kind", rec.KINDS)
def test_multi_scale_and_flip_gives_the_recorded_labels(kind):
    model = MODELS.build({"type": "SegTTAModel", "module": rec.build(kind).eval()})
    with torch.no_grad():
        (sample,) = model.test_step(views())
    assert torch.equal(sample.pred_sem_seg.data, rec.golden()[f"{kind}|tta"]["pred"].long())
    assert sample.flip is False


@pytest.mark.parametrize("kind", rec.KINDS)
def test_merging_logits_gives_the_recorded_labels(kind):
    segmentor = rec.build(kind).eval()
    segmentor.test_cfg.return_logits = True
    data = views()
    with torch.no_grad():
        results = [
            segmentor.test_step({"inputs": inputs, "data_samples": samples})[0]
            for inputs, samples in zip(data["inputs"], data["data_samples"], strict=True)
        ]
    want = rec.golden()[f"{kind}|tta"]
    rec.assert_close(results[-1].seg_logits.data[:, ::3, ::3], want["logits_last_aug"])
    model = MODELS.build({"type": "SegTTAModel", "module": segmentor})
    (merged,) = model.merge_preds([results])
    assert torch.equal(merged.pred_sem_seg.data, want["pred"].long())


def test_views_of_one_size_run_together_as_far_as_allowed():
    segmentor = rec.build("GC").eval()
    batches = []
    segmentor.backbone.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
    labels = []
    for max_pixels in (0, 1 << 20, 2 * 66 * 97):
        model = MODELS.build({"type": "SegTTAModel", "module": segmentor, "max_pixels": max_pixels})
        with torch.no_grad():
            labels.append(model.test_step(views())[0].pred_sem_seg.data)
    # the largest batch first: pairs of the three small scales, the others alone
    assert batches == [1] * 12 + [2] * 6 + [1, 1, 1, 1, 2, 1, 1, 2, 2]
    assert torch.equal(labels[0], labels[1])
    assert torch.equal(labels[0], labels[2])


def test_the_largest_batch_runs_first_and_the_first_view_is_the_result():
    segmentor = rec.build("GC").eval()
    model = MODELS.build({"type": "SegTTAModel", "module": segmentor, "max_pixels": 0})
    ran = []
    segmentor.backbone.register_forward_pre_hook(
        lambda _, inputs: ran.append(inputs[0].shape[-2:].numel())
    )
    data = views()
    order = [5, 2, 0, 7, 10]  # neither rising nor falling in size
    data = {key: [values[i] for i in order] for key, values in data.items()}
    for place, (sample,) in enumerate(data["data_samples"]):
        sample.set_metainfo({"img_path": f"view {place}"})
    sizes = [image.shape[-2:].numel() for (image,) in data["inputs"]]
    with torch.no_grad():
        (result,) = model.test_step(data)
    assert sizes != sorted(sizes, reverse=True)
    assert ran == sorted(sizes, reverse=True)
    assert result.img_path == "view 0"


def test_two_images_at_once_get_what_each_gets_alone():
    model = MODELS.build({"type": "SegTTAModel", "module": rec.build("NL").eval()})
    one, other = views(), views()
    other["inputs"] = [[image.flip(1)] for (image,) in other["inputs"]]
    with torch.no_grad():
        alone = [model.test_step(data)[0].pred_sem_seg.data for data in (one, other)]
        pairs = {key: [[*a, *b] for a, b in zip(one[key], other[key], strict=True)] for key in one}
        together = [sample.pred_sem_seg.data for sample in model.test_step(pairs)]
    assert not torch.equal(*alone)
    for want, got in zip(alone, together, strict=True):
        assert (want != got).float().mean() < 1e-3  # rounding, where two classes tie


def test_a_model_is_built_from_dicts():
    cfg = rec.model_cfg("GC")
    model = MODELS.build({"type": "SegTTAModel", "module": cfg})
    assert type(model.module).__name__ == "EncoderDecoder"
