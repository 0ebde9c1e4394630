"""What the tools of analysis_tools stand on: logs, counts of predictions, sizes of networks."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from nlseg.commands.main import main
from nlseg.compare.confusion_report import count_folder, counts_of_test, read_kept_counts
from nlseg.compare.run_log import read_runs, summary
from nlseg.errors import DataError, UserError
from nlseg.evaluation import IoUMetric
from nlseg.plan.complexity import measure_complexity
from tests.doctor.damaged import make_config, make_data, make_label


def write_log(folder, name, lines):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_logs_of_a_run_that_was_resumed(tmp_path):
    lines = [
        {"kind": "train", "step": 10, "loss": 3.0},
        {"kind": "train", "step": 20, "loss": 9.0},
        {"resumed at": 10},
        {"kind": "train", "step": 20, "loss": 2.0},
        {"kind": "val", "step": 20, "mIoU": 31.5},
    ]
    write_log(tmp_path / "ours", "scalars.jsonl", lines)
    runs = read_runs([tmp_path / "ours"])
    assert [entry.get("loss") for entry in runs["ours"]] == [3.0, 2.0, None]
    assert summary(runs, ["mIoU", "loss"]).splitlines()[2:] == [
        "ours  mIoU    31.50  31.50            20",
        "ours  loss     2.00   2.00            20",
    ]


def test_curves_are_drawn_beside_the_first_run(tmp_path, monkeypatch, capsys):
    for name in ("first", "second"):
        write_log(tmp_path / name, "scalars.jsonl", [{"kind": "train", "step": 1, "loss": 3.0}])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    runs = [str(tmp_path / "first"), str(tmp_path / "second")]
    assert main(["analyze-logs", *runs, "--keys", "loss"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "first/curves.png")
    assert (tmp_path / "first/curves.png").is_file()
    assert main(["analyze-logs", *runs, "--keys", "loss", "--out", "mine.png"]) == 0
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["mine.png"]


def test_logs_of_openmmlab_toolkits(tmp_path):
    lines = [{"loss": 1.0, "iter": 5, "step": 5}, {"mIoU": 7.0, "step": 5}]
    write_log(tmp_path / "theirs/20260101_000000/vis_data", "scalars.json", lines)
    runs = read_runs([tmp_path / "theirs"])
    assert [entry["step"] for entry in runs["theirs"]] == [5, 5]
    with pytest.raises(UserError, match=r"no scalars.jsonl here"):
        read_runs([tmp_path / "nothing"])
    with pytest.raises(UserError, match="1 names for 2 logs"):
        read_runs([tmp_path, tmp_path], ["a"])


def test_predicted_folder_is_counted_exactly(tmp_path):
    make_data(tmp_path, num=2)
    config = Config({"test_dataloader": make_config(tmp_path)["val_dataloader"]})
    (tmp_path / "pred").mkdir()
    for i in range(2):
        pred = make_label(i)
        pred[0, :7] = 2
        Image.fromarray(pred).save(tmp_path / "pred" / f"{i}.png")
    expected = np.zeros((3, 3), np.int64)
    for i in range(2):
        pred = make_label(i)
        pred[0, :7] = 2
        np.add.at(expected, (make_label(i), pred), 1)
    assert count_folder(config, tmp_path / "pred").tolist() == expected.tolist()
    (tmp_path / "pred/1.png").unlink()
    with pytest.raises(DataError, match=r"there is no 1.png for .*--out"):
        count_folder(config, tmp_path / "pred")


def test_predictions_that_were_shifted_up_are_shifted_back(tmp_path):
    make_data(tmp_path, lambda label: label + 1, num=2)
    loader = make_config(tmp_path, reduce_zero_label=True)["val_dataloader"]
    (tmp_path / "pred").mkdir()
    for i in range(2):
        Image.fromarray(make_label(i) + 1).save(tmp_path / "pred" / f"{i}.png")
    counts = count_folder(Config({"test_dataloader": loader}), tmp_path / "pred")
    assert counts.trace() == counts.sum() == 2 * 24 * 32


def test_kept_counts(tmp_path):
    (tmp_path / "a.json").write_text('{"confusion": [[1, 2], [3, 4]]}')
    assert read_kept_counts(tmp_path / "a.json").tolist() == [[1, 2], [3, 4]]
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(UserError, match=r"b.json: holds no confusion matrix"):
        read_kept_counts(tmp_path / "b.json")


def test_counts_of_a_test_come_from_its_metric():
    metric = IoUMetric()
    metric.dataset_meta = {"classes": ("a", "b")}
    metric.confusion = torch.tensor([[5, 1, 0], [2, 2**40, 0], [9, 9, 9]])
    ran = []
    evaluator = SimpleNamespace(metrics=[object(), metric])
    runner = SimpleNamespace(test=lambda: ran.append(1), test_evaluator=evaluator)
    assert counts_of_test(runner).tolist() == [[5, 1], [2, 2**40]]
    assert ran == [1]
    evaluator.metrics = [object()]
    with pytest.raises(UserError, match="no IoUMetric"):
        counts_of_test(runner)


def convolutions_and_norms(channels, *widths):
    """Learned numbers of 3x3 convolutions from these widths, each with a norm."""
    return sum(9 * width * channels + 2 * channels for width in widths)


def test_operations_by_hand():
    norm = {"type": "BN"}
    head = {"in_channels": 2048, "channels": 512, "num_classes": 19, "norm_cfg": norm}
    model = {
        "type": "EncoderDecoder",
        "data_preprocessor": {"type": "SegDataPreProcessor", "size_divisor": 1},
        "backbone": {
            "type": "ResNetV1c", "depth": 50, "norm_cfg": norm,
            "strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4),
        },
        "decode_head": {"type": "NLHead", "in_index": 3, **head},
        "auxiliary_head": {
            "type": "FCNHead", "in_index": 2, **head, "in_channels": 1024, "channels": 256,
        },
        "train_cfg": {}, "test_cfg": {"mode": "whole"},
    }  # fmt: skip
    found = measure_complexity(Config({"model": model}), (128, 256))
    positions = 16 * 32
    convolutions = 9 * 512 * (2048 + 512 + 2560) + 512 * 19
    embeddings, attention = 4 * 512 * 256, 2 * positions * 256
    by_hand = positions * (convolutions + embeddings + attention)
    assert found.parts["decode_head"] == 2 * by_hand
    assert found.flops == found.parts["decode_head"] + found.parts["backbone"]
    convolutions = 9 * 256 * (1024 + 256 + 1280) + 3 * 2 * 256
    assert found.auxiliary == convolutions + 256 * 19 + 19
    assert found.multiply_adds * 2 == found.flops
    resnet50_v1c = 25_557_032 - 2_049_000 - 64 * 147 + 9 * 32 * (3 + 32 + 64) + 2 * (32 + 32)
    head = convolutions_and_norms(512, 2048, 512, 2560) + 4 * 512 * 256 + 3 * 256 + 2 * 512
    assert found.parameters == resnet50_v1c + head + 512 * 19 + 19
