"""A receipt holds what a score rests on, and every digit of it can be checked."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nlseg.commands.verify import main as verify
from nlseg.datasets import CityscapesDataset
from nlseg.datasets.stream import DefaultSampler
from nlseg.evaluation.image_counts import CountedImages, ImageCounts, joined
from nlseg.evaluation.iou import IoUMetric
from nlseg.evaluation.scores import summarize
from nlseg.registry import METRICS
from nlseg.zoo import rerun
from nlseg.zoo.data import digest_of_config, label_areas
from nlseg.zoo.receipt import (
    digest_of_labels,
    of_classes,
    problems,
    read_receipt,
    rounded,
    score_counts,
    write_receipt,
)
from nlseg.zoo.rerun import NothingToRunError, batch_with
from tests.zoo import scenes


def test_counts_of_images_by_hand() -> None:
    counts = ImageCounts()
    counts.add("a", torch.tensor([[5, 1, 0], [0, 2, 0], [0, 0, 3]]))
    counts.add("b", torch.tensor([[0, 0, 0], [4, 0, 0], [0, 0, 0]]))
    images = counts.gather()
    assert images.names == ("a", "b")
    assert images.pairs.tolist() == [
        [0, 0, 0, 5], [0, 0, 1, 1], [0, 1, 1, 2], [0, 2, 2, 3], [1, 1, 0, 4],
    ]  # fmt: skip
    assert images.total(2).tolist() == [[5, 1, 0], [4, 2, 0], [0, 0, 3]]
    assert images.labelled(2).tolist() == [[6, 2, 3], [0, 4, 0]]
    assert images.of_image(1).tolist() == [[1, 0, 4]]
    with pytest.raises(ValueError, match="out of range"):
        images.total(1)


def test_images_of_processes_come_behind_each_other() -> None:
    parts = [(["a"], np.array([[0, 0, 0, 7]])), (["b"], np.array([[0, 1, 1, 8]]))]
    images = joined(parts)
    assert images.names == ("a", "b")
    assert images.pairs.tolist() == [[0, 0, 0, 7], [1, 1, 1, 8]]


def test_no_image_leaves_no_counts() -> None:
    images = ImageCounts().gather()
    assert (images.names, images.total(1).sum()) == ((), 0)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("receipt")
    return folder, scenes.draw(folder)


@pytest.fixture(scope="module")
def tested(drawn: tuple[Path, list[str]]) -> Path:
    folder, overrides = drawn
    return scenes.tested(folder, "plain", overrides=overrides).path


def test_it_says_what_the_test_printed_and_recomputes_it(tested: Path) -> None:
    receipt = read_receipt(tested.parent)
    kept = json.loads((tested.parent / "per_class.json").read_text())
    assert receipt.scores == pytest.approx({k: round(v, 2) for k, v in kept["summary"].items()})
    assert receipt.facts["per_class"]["IoU"] == [line["IoU"] for line in kept["classes"]]
    assert receipt.images.total(19)[:19, :19].tolist() == kept["confusion"]
    assert problems(receipt) == []
    assert not receipt.is_partial
    assert str(tested.parents[2]) not in tested.read_text()  # no place of this machine


def test_digest_of_labels_is_that_of_the_files(tested: Path) -> None:
    receipt = read_receipt(tested)
    dataset = CityscapesDataset(
        data_root=str(tested.parents[2] / "data"),
        data_prefix={"img_path": "leftImg8bit/val", "seg_map_path": "gtFine/val"},
        test_mode=True,
    )
    areas = label_areas(dataset, 19, 255)
    assert receipt.facts["data"]["labels_sha256"] == digest_of_labels(receipt.images.names, areas)
    areas[0, 0] += 1
    assert receipt.facts["data"]["labels_sha256"] != digest_of_labels(receipt.images.names, areas)


def test_a_rerun_is_equal(tested: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify([str(tested), "--images", "0"]) == 0
    assert "predicted again" not in capsys.readouterr().out
    assert verify([str(tested), "--images", "3"]) == 0
    said = capsys.readouterr().out
    assert said.count("every count is equal") == 3
    assert "3 images predicted again" in said


PROTOCOLS: dict[str, dict[str, Any]] = {
    "--tta": {"multi_scale_and_flip": True, "half": None, "batch_size": 1, "processes": 1},
    "--amp": {"multi_scale_and_flip": False, "half": "default", "batch_size": 2, "processes": 1},
}


@pytest.mark.parametrize("option", PROTOCOLS)
def test_a_rerun_follows_the_protocol(
    drawn: tuple[Path, list[str]], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, overrides = drawn
    batch = f"test_dataloader.batch_size={PROTOCOLS[option]['batch_size']}"
    receipt = scenes.tested(folder, option.strip("-"), option, overrides=[*overrides, batch])
    assert receipt.facts["protocol"] == PROTOCOLS[option]
    assert verify([str(receipt.path), "--images", "1", "--seed", "4"]) == 0
    assert "0 differ" in capsys.readouterr().out


def copied(tested: Path, folder: Path) -> Path:
    shutil.copytree(tested.parent, folder / "test")
    return folder / "test/receipt.json"


CHANGES: dict[str, tuple[str, str]] = {
    "scores": ('"mIoU": ', "mIoU"),
    "per_class": ('"IoU": [\n   ', "IoU"),
    "weights": ('"file": "weights.pth",\n  "sha256": "', "text was changed"),
    "data": ('"labels_sha256": "', "labels_sha256"),
    "images": ('"images": ', "images"),
    "machine": ('"threads": ', "text was changed"),
}


@pytest.mark.parametrize("place", CHANGES)
def test_a_changed_digit_is_found(
    tested: Path, tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied(tested, tmp_path)
    before, said = CHANGES[place]
    text = path.read_text()
    at = text.index(before) + len(before)
    path.write_text(text[:at] + ("1" if text[at] != "1" else "2") + text[at + 1 :])
    assert verify([str(path), "--images", "0"]) == 1
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("array", ["pairs", "names", "files"])
def test_a_changed_count_is_found(
    tested: Path, tmp_path: Path, array: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied(tested, tmp_path)
    with np.load(path.with_suffix(".npz")) as file:
        arrays: dict[str, Any] = dict(file)
    if array == "pairs":
        arrays["pairs"][0, 3] += 1
    else:
        arrays[array][0] = arrays[array][0][:-1] + "?"
    np.savez(path.with_suffix(".npz"), **arrays)
    assert verify([str(path), "--images", "0"]) == 1
    assert "the counts were changed" in capsys.readouterr().out


def test_a_receipt_forged_with_all_its_hashes_fails_the_rerun(
    tested: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied(tested, tmp_path)
    receipt = read_receipt(path)
    pairs = receipt.images.pairs.copy()
    here = pairs[:, 0] == 0
    pairs[here, 2] = pairs[here, 1]  # every pixel of the first image is right
    images = CountedImages(receipt.images.names, pairs)
    scores = score_counts(
        torch.from_numpy(images.total(19)), receipt.classes, receipt.facts["metric"]
    )
    facts = {k: v for k, v in receipt.facts.items() if k not in ("format", "counts", "sha256")}
    facts.update(scores=rounded(summarize(scores), 2), per_class=of_classes(scores))
    write_receipt(path, facts, images, receipt.files)
    assert verify([str(path), "--images", "0"]) == 0
    assert verify([str(path), "--images", "5"]) == 1
    said = capsys.readouterr().out
    assert "pixels are counted elsewhere than in the receipt" in said
    assert "1 differ" in said


def test_other_weights_config_or_image_are_found(
    tested: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, source = copied(tested, tmp_path), tested.parents[2]
    content = torch.load(source / "weights.pth", weights_only=True)
    content["state_dict"]["decode_head.conv_seg.bias"] += 1
    torch.save(content, tmp_path / "other.pth")
    assert verify([str(path), "--checkpoint", str(tmp_path / "other.pth")]) == 1
    assert "is not what was tested, which was weights.pth" in capsys.readouterr().out

    config = path.with_name(f"{scenes.CONFIG}.py")
    windows = "mode='slide', crop_size=(96, 96), stride=(64, 64)"
    config.write_text(config.read_text().replace("mode='whole'", windows))
    assert verify([str(path)]) == 1
    assert "is not what was tested: its digest" in capsys.readouterr().out

    shutil.copy(tested.with_name(config.name), config)
    shutil.copytree(source / "data", tmp_path / "data")
    for image in (tmp_path / "data/leftImg8bit/val").rglob("*.png"):
        image.write_bytes(image.read_bytes() + b"\0")  # the same picture in another file
    assert verify([str(path), "--data-root", str(tmp_path / "data"), "--images", "1"]) == 1
    assert "its image or label file is not the one" in capsys.readouterr().out


def test_another_data_set_is_told(
    tested: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tested.parents[2] / "data", tmp_path / "data")
    for file in sorted((tmp_path / "data").glob("*/val/*/*")):
        file.rename(file.with_name(f"other_{file.name}"))
    assert verify([str(tested), "--data-root", str(tmp_path / "data")]) == 3
    assert "no image of the receipt is in the data set" in capsys.readouterr().out


def test_what_is_missing_is_told_with_exit_3(
    tested: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied(tested, tmp_path)
    assert verify([str(path), "--data-root", str(tmp_path / "nowhere")]) == 3
    assert "by --data-root DIR" in capsys.readouterr().out
    config = path.with_name(f"{scenes.CONFIG}.py")
    config.rename(config.with_name("mine.py"))
    path.write_text(path.read_text().replace(config.name, "mine.py"))
    config.with_name("mine.py").rename(tmp_path / "away.py")
    receipt = read_receipt(path)
    with pytest.raises(NothingToRunError, match="by --config FILE"):
        rerun.config_of(receipt, None)
    assert rerun.config_of(receipt, str(tmp_path / "away.py")).model.type == "EncoderDecoder"
    with pytest.raises(SystemExit, match="2"):
        verify([str(tmp_path)])
    assert "nlseg test writes receipt.json" in capsys.readouterr().err


def test_a_damaged_receipt_ends_with_2(
    tested: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied(tested, tmp_path)
    path.with_suffix(".npz").write_bytes(path.with_suffix(".npz").read_bytes()[:-100])
    with pytest.raises(SystemExit, match="2"):
        verify([str(path)])
    assert "is no receipt" in capsys.readouterr().err


def test_the_config_of_a_receipt_may_be_a_published_one(
    tested: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied(tested, tmp_path)
    path.with_name(f"{scenes.CONFIG}.py").unlink()
    data = ["--data-root", str(tested.parents[2] / "data")]
    assert verify([str(path), *data, "--images", "1"]) == 3
    assert "give weights.pth with SHA-256" in capsys.readouterr().out
    weights = ["--checkpoint", str(tested.parents[2] / "weights.pth")]
    assert verify([str(path), *data, *weights, "--images", "1"]) == 0
    assert "1 images predicted again" in capsys.readouterr().out


def test_a_part_of_the_images_is_marked(drawn: tuple[Path, list[str]]) -> None:
    folder, overrides = drawn
    receipt = scenes.tested(
        folder, "part", overrides=[*overrides, "test_dataloader.dataset.indices=2"]
    )
    assert receipt.is_partial
    assert receipt.facts["data"]["images"] == 2


@METRICS.register_module(force=True)
class HalvedIoU(IoUMetric):
    """Scores in a way of its own, which nobody could recompute from counts."""

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        return {name: value / 2 for name, value in super().compute_metrics(results).items()}


def test_a_metric_that_scores_in_its_own_way_has_no_receipt(
    drawn: tuple[Path, list[str]],
) -> None:
    folder, overrides = drawn
    with pytest.raises(ValueError, match="not enough values"):
        scenes.tested(folder, "own", overrides=[*overrides, "test_evaluator.type=HalvedIoU"])


def test_places_and_workers_do_not_change_the_digest_of_a_config() -> None:
    from nlseg.config import load_config

    def digest(*overrides: str) -> str:
        return digest_of_config(load_config(scenes.CONFIG, overrides))

    plain = digest()
    assert plain == digest("data_root=/elsewhere", "test_dataloader.num_workers=7", "max_iters=5")
    assert plain != digest("test_dataloader.batch_size=2")
    assert plain != digest("model.backbone.norm_eval=True")
    assert plain != digest("test_evaluator.ignore_index=0")


@pytest.mark.parametrize(("total", "processes", "size"), [(7, 2, 2), (5, 1, 2), (6, 3, 4)])
def test_batches_are_those_of_the_sampler(total: int, processes: int, size: int) -> None:
    batches = []
    for rank in range(processes):
        order = list(DefaultSampler(range(total), False, rank=rank, world_size=processes))
        batches += [order[i : i + size] for i in range(0, len(order), size)]
    for index in range(total):
        found = batch_with(index, size=size, processes=processes, total=total)
        assert index in found
        assert found in batches


def test_a_stray_pixel_is_counted_apart() -> None:
    images = CountedImages(("a",), np.array([[0, 2, 0, 3]]))
    assert images.labelled(2).tolist() == [[0, 0, 3]]
