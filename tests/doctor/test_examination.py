"""Counts, weights, splits, the cache, and the quick form."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config

from nlseg.datasets.class_counts import median_frequency_weights
from nlseg.datasets.transforms import Compose
from nlseg.doctor import survey as surveying
from nlseg.doctor.examination import examine
from nlseg.doctor.hook import quick_check
from nlseg.doctor.probe import probe
from nlseg.doctor.report import write_report
from nlseg.doctor.splits import find_splits
from nlseg.doctor.survey import survey
from nlseg.errors import ConfigError, DataError
from nlseg.models import BaseCascadeDecodeHead
from nlseg.registry import DATASETS, MODELS, TRANSFORMS
from nlseg.run.runner import Runner
from tests.doctor.damaged import (
    ROOT,
    make_config,
    make_data,
    make_image,
    make_label,
    save,
    write_config,
)
from tests.run.tiny_segmentor import tiny_run


@pytest.fixture
def data(tmp_path):
    make_data(tmp_path)
    return tmp_path


def codes(config, split="train"):
    found = examine(config, num_processes=1, progress=False).findings
    return {finding.code for finding in found if finding.split == split}


def test_counts_and_weights_by_hand(tmp_path):
    # Image 0: class 0 on 6, class 1 on 2, ignored 4; image 1: class 0 on 12.
    save(np.zeros((3, 4, 3), np.uint8), tmp_path / "train/img/0.png")
    save(np.full((3, 4, 3), 30, np.uint8), tmp_path / "train/img/1.png")
    save(np.array([[0] * 4, [0, 0, 1, 1], [255] * 4], np.uint8), tmp_path / "train/lab/0.png")
    save(np.zeros((3, 4), np.uint8), tmp_path / "train/lab/1.png")
    (_, tally), *rest = examine(
        make_config(tmp_path, stages=["train"]), num_processes=1, progress=False
    ).tallies
    assert rest == []
    assert tally.pixels.tolist() == [18, 2, 0]
    assert tally.frames.tolist() == [2, 1, 0]
    assert tally.ignored == 4
    # Frequencies 18 / 20 and 2 / 8; their median 0.575; absent classes weigh 1.
    weights = median_frequency_weights(tally.pixels, tally.area)
    assert weights.tolist() == [round(0.575 / 0.9, 3), round(0.575 / 0.25, 3), 1.0]
    assert tally.channel_statistics() == ([15.0] * 3, [15.0] * 3)


def test_absent_single_and_ignored_classes(tmp_path):
    make_data(tmp_path, lambda label: np.where(label == 2, 1, label).astype(np.uint8))
    save(np.full((24, 32), 255, np.uint8), tmp_path / "train/lab/0.png")
    assert codes(make_config(tmp_path)) == {"absent-classes", "all-ignored"}
    for path in (tmp_path / "train/lab").iterdir():
        save(np.ones((24, 32), np.uint8), path)
    assert codes(make_config(tmp_path)) == {"absent-classes", "one-class"}


def test_head_and_data_set_differ(data):
    config = make_config(data)
    config.model.decode_head.num_classes = 19
    found = examine(config, num_processes=1, progress=False).findings
    assert "model.decode_head.num_classes = 3" in found[0].remedy
    assert found[0].title == "The network has 19 classes, the data set 3"


def test_normalisation_is_compared(data):
    config = make_config(data)
    config.model.data_preprocessor = {}
    assert "normalisation" in codes(config)
    config.model.data_preprocessor = {"mean": [0.5] * 3, "std": [0.2] * 3}
    assert "normalisation" in codes(config)


def test_joined_and_repeated_data_sets_are_split_up(data):
    config = make_config(data)
    one = config.train_dataloader.dataset.to_dict()
    two = {**one, "ann_file": "list.txt"}
    joined = {"type": "ConcatDataset", "datasets": [one, {"type": "RepeatDataset", "dataset": two}]}
    config.train_dataloader.dataset = {"type": "RepeatDataset", "times": 2, "dataset": joined}
    config.test_dataloader = config.val_dataloader
    (data / "list.txt").write_text("0\n1\n")
    splits = find_splits(config)
    assert [(split.name, split.key) for split in splits] == [
        ("train-1", "train_dataloader.dataset.dataset.datasets.0"),
        ("train-2", "train_dataloader.dataset.dataset.datasets.1.dataset"),
        ("val", "val_dataloader.dataset"),
    ]


def test_config_without_data_is_refused():
    with pytest.raises(ConfigError, match=r"no data set in train_dataloader\.dataset"):
        examine(Config({}), stages=["train"])


def test_facts_are_kept_until_a_file_changes(data, monkeypatch):
    cache, read = data / "facts.jsonl", []

    def counted(kind, path):
        read.append(path)
        return probe(kind, path)

    monkeypatch.setattr(surveying, "probe", counted)
    files = [("label", str(data / f"train/lab/{i}.png")) for i in range(4)]
    first = survey(files, num_processes=1, cache_file=cache, progress=False)
    assert len(read) == 4
    with cache.open("a") as file:
        file.write('{"kind": "label", "pa')  # a run that was killed
    assert survey(files, num_processes=1, cache_file=cache, progress=False) == first
    assert len(read) == 4
    os.utime(files[2][1], ns=(1, 1))
    survey(files, num_processes=1, cache_file=cache, progress=False)
    assert read[4:] == [files[2][1]]
    survey(files, num_processes=1, cache_file=cache, progress=False)
    assert len(read) == 5


@pytest.mark.slow
def test_several_processes_see_the_same(data):
    files = [(k, str(p)) for k in ("image", "label") for p in sorted(data.rglob("*.png"))]
    one = survey(files, num_processes=1, cache_file=None, progress=False)
    assert survey(files, num_processes=2, cache_file=None, progress=False) == one


def built(data, **changes):
    return DATASETS.build(make_config(data, **changes).train_dataloader.dataset)


def test_quick_check_passes_healthy_data(data):
    assert quick_check(built(data), 3) == []


def test_quick_check_names_cause_and_remedy(data):
    label = make_label(0)
    label[0, 0] = 3
    save(label, data / "train/lab/3.png")
    with pytest.raises(
        DataError, match=r"(?s)Labels go to 3.*reduce_zero_label = True.*nlseg check-data"
    ):
        quick_check(built(data), 3)


def test_quick_check_looks_at_a_few_labels_only(data, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "nlseg.doctor.hook.probe",
        lambda kind, path: seen.append(path) or probe(kind, path),
    )
    quick_check(built(data), 3, limit=2)
    assert [Path(path).name for path in seen] == ["0.png", "2.png"]


def test_quick_check_compares_with_the_head(data):
    with pytest.raises(DataError, match="network has 19 classes, the data set 3"):
        quick_check(built(data), 19)


def test_quick_check_stops_on_what_all_labels_prove(tmp_path):
    make_data(tmp_path, lambda label: np.where(label > 0, 255, 0).astype(np.uint8), num=6)
    with pytest.raises(DataError, match=r"(?s)Binary masks hold 0 and 255.*data_check = 'warn'"):
        quick_check(built(tmp_path), 3, limit=2)
    warned = quick_check(built(tmp_path), 3, limit=2, stop=False)
    assert {finding.code for finding in warned} == {"binary-masks"}
    save(make_label(1), tmp_path / "train/lab/1.png")  # none of the two that are looked at first
    assert quick_check(built(tmp_path), 3, limit=2) == []


def test_quick_check_stops_on_pictures_that_are_nearly_black(data):
    for i in range(4):
        save(make_image(i)[..., 0].astype(np.uint16) * 4, data / f"train/img/{i}.png")
    with pytest.raises(DataError, match=r"(?s)more than 8 bits a channel.*nearly black"):
        quick_check(built(data), 3)


def test_training_stops_or_warns_as_the_config_says(data, tmp_path):
    for i in range(4):
        save(np.full((24, 32), 255, np.uint8), data / f"train/lab/{i}.png")
    config = tiny_run(tmp_path / "run", iters=1)
    for head in (config.model.decode_head, config.model.auxiliary_head):
        head.num_classes = 3
    dataset = make_config(data).train_dataloader.dataset
    dataset.pipeline.append({"type": "PackSegInputs"})
    config.train_dataloader.dataset = dataset
    with pytest.raises(DataError, match="every pixel is 255 after the label rules"):
        Runner.from_cfg(config).train()
    config.data_check = "worn"
    with pytest.raises(ConfigError, match="data_check: 'worn' is neither 'stop' nor 'warn'"):
        Runner.from_cfg(config).train()
    config.data_check = "warn"
    runner = Runner.from_cfg(config)
    runner.train()
    assert runner.iter == 1


def test_quick_check_leaves_unusual_data_sets_alone(data):
    assert quick_check([1, 2, 3], 5) == []
    assert quick_check(built(data, check_labels=False), 19) == []


def test_quick_check_runs_a_pipeline_that_remaps_labels(tmp_path):
    make_data(tmp_path, lambda label: (label + 30).astype(np.uint8))  # ids 30..32
    dataset = built(tmp_path)
    with pytest.raises(DataError):
        quick_check(dataset, 3)

    def coarser(sample):
        sample["gt_seg_map"] = sample["gt_seg_map"] - 30
        return sample

    pipeline = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}, coarser,
                {"type": "PackSegInputs"}]  # fmt: skip
    remapped = built(tmp_path)
    remapped.pipeline = Compose(pipeline)
    assert quick_check(remapped, 3) == []
    with pytest.raises(DataError, match="network has 19 classes, the data set 3"):
        quick_check(remapped, 19)
    first = Path(remapped.get_data_info(0)["seg_map_path"])
    save(np.full_like(make_label(0), 99), first)
    with pytest.raises(DataError, match=r"(?s)refuses a sample.*label 99 .*outside 0\.\.2"):
        quick_check(remapped, 3)


@pytest.mark.slow
def test_command(data):
    save(make_label(0) * 100, data / "train/lab/1.png")
    save(make_image(0), data / "val/img/1.png")
    config = write_config(data)
    command = [sys.executable, str(ROOT / "tools/check_data.py"), str(config), "--nproc", "2"]
    done = subprocess.run(
        [*command, "--out", str(data / "out/x")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "error: train: Label values outside the classes: 2" in done.stdout
    assert "Images both in train and in val: 1" in done.stdout
    assert "2 errors" in done.stdout
    report = json.loads((data / "out/x/report.json").read_text())
    assert report["splits"][0]["values"][3] == {
        "value": "100",
        "pixels": 256,
        "files": 1,
        "becomes": None,
    }
    page = (data / "out/x/report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2
    assert 'src="http' not in page
    missing = subprocess.run([*command[:2], "none.py"], capture_output=True, text=True, check=False)
    assert missing.returncode == 2
    assert "Traceback" not in missing.stderr


def test_the_hook_knows_the_classes_of_a_cascade(data, tmp_path):
    config = tiny_run(tmp_path / "run", iters=1)
    head = config.model.decode_head
    config.model.update(
        type="CascadeEncoderDecoder", num_stages=2, decode_head=[head, {**head, "type": "Refined"}]
    )
    config.train_dataloader.dataset = make_config(data).train_dataloader.dataset
    with pytest.raises(DataError, match="network has 5 classes, the data set 3"):
        Runner.from_cfg(config).train()


@MODELS.register_module()
class Refined(BaseCascadeDecodeHead):
    def forward(self, inputs, prev_output):
        return self.cls_seg(self._transform_inputs(inputs)[:, : self.channels]) + prev_output


def test_labels_that_a_transform_of_the_users_remaps_are_judged_behind_it(tmp_path):
    @TRANSFORMS.register_module(name="Divide", force=True)
    class Divide:
        def __init__(self, by):
            self.by = by

        def __call__(self, sample):
            label = sample["gt_seg_map"]
            sample["gt_seg_map"] = np.where(label == 255, 255, label // self.by)
            return sample

    make_data(tmp_path, relabel=lambda label: np.where(label == 255, label, label * 50))

    def findings(by):
        steps = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"},
                 {"type": "Divide", "by": by}]  # fmt: skip
        config = make_config(tmp_path, stages=["train"], pipeline=steps)
        return examine(config, num_processes=1, progress=False)

    assert findings(50).num_errors == 0
    note = next(one for one in findings(50).findings if one.code == "own-transforms")
    assert "was run on 4 of 4 samples" in note.detail
    wrong = findings(10)
    assert wrong.num_errors == 1
    assert wrong.findings[0].code == "stray-labels"
    assert "train/lab/" in wrong.findings[0].files[0]


def test_the_report_shows_files_whose_names_are_not_utf8(data):
    save(np.full((3, 4), 9, np.uint8), data / "train/lab/0.png")  # so that it is shown
    for file in (data / "train").rglob("0.png"):
        os.rename(file, os.fsencode(file.parent) + b"/B\xe4ume.png")
    found = examine(make_config(data, stages=["train"]), num_processes=1, progress=False)
    report, page = write_report(found, data / "report")
    assert "B\\udce4ume.png" in page.read_text(encoding="utf-8")
    assert json.loads(report.read_text())["splits"]
