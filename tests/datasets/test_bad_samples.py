"""Bad files: raise, skip or replace, up to a limit, each written down once."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from nlseg.datasets import DefaultSampler, InfiniteSampler, stack_collate
from nlseg.errors import ConfigError, DataError
from nlseg.registry import DATASETS
from nlseg.structures import SampleIndex
from tests.datasets.folders import LOAD, config, write_pairs


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six pairs; the label of b is cut off and the image of d is no image."""
    write_pairs(tmp_path, list("abcdef"))
    label = tmp_path / "labels/b.png"
    label.write_bytes(label.read_bytes()[:60])
    (tmp_path / "images/d.png").write_text("not an image")
    return tmp_path


def build(root: Path, policy: str, **changes: Any) -> Any:
    rule = {"policy": policy, "log": str(root / "log/bad_samples.jsonl")}
    rule.update(changes.pop("rule", {}))
    return DATASETS.build(config(root, bad_samples=rule, **changes))


def log_of(root: Path) -> list[dict[str, Any]]:
    lines = (root / "log/bad_samples.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_raise_is_the_default(root: Path) -> None:
    dataset = DATASETS.build(config(root))
    with pytest.raises(DataError, match=r"labels/b\.png: no readable image"):
        dataset[1]
    assert not (root / "log").exists()


def test_replace_takes_another_image_by_the_samples_own_draws(root: Path) -> None:
    dataset = build(root, "replace")
    first = dataset[SampleIndex(1, 33)]
    again = build(root, "replace")[SampleIndex(1, 33)]
    assert torch.equal(first["inputs"], again["inputs"])
    assert Path(first["data_samples"].img_path).stem not in "bd"
    others = {Path(dataset[SampleIndex(1, n)]["data_samples"].img_path).stem for n in range(40)}
    assert others == set("acef")


def test_every_bad_file_is_written_down_once_with_its_cause(root: Path) -> None:
    dataset = build(root, "replace")
    for number in range(12):
        dataset[SampleIndex(number % 6, number)]
    log = log_of(root)
    assert [line["file"] for line in log] == [f"{root}/labels/b.png", f"{root}/images/d.png"]
    assert "no readable image" in log[0]["cause"]
    assert {line["policy"] for line in log} == {"replace"}


def test_skip_leaves_gaps_that_the_batch_closes(root: Path) -> None:
    dataset = build(root, "skip")
    assert dataset[1] is None
    sampler = InfiniteSampler(dataset, shuffle=False, seed=0)
    loader = DataLoader(dataset, 3, sampler=sampler, num_workers=2, collate_fn=stack_collate)
    batch = next(iter(loader))
    assert [Path(s.img_path).stem for s in batch["data_samples"]] == ["a", "c"]
    assert batch["inputs"].shape[0] == 2


@pytest.mark.parametrize("policy", ["skip", "replace"])
def test_evaluation_leaves_bad_images_out(root: Path, policy: str) -> None:
    dataset = build(root, policy, pipeline=LOAD, test_mode=True)
    loader = DataLoader(
        dataset,
        batch_size=2,
        sampler=DefaultSampler(dataset, shuffle=False, seed=0),
        collate_fn=lambda samples: [s for s in samples if s is not None],
    )
    found = [Path(s["img_path"]).stem for batch in loader for s in batch]
    assert found == ["a", "c", "e", "f"]


def test_the_limit_ends_the_run(root: Path) -> None:
    dataset = build(root, "replace", rule={"limit": 0})
    with pytest.raises(DataError, match=r"1 bad files, more than bad_samples.limit=0; all of them"):
        dataset[SampleIndex(3, 0)]


def test_processes_share_the_limit_through_the_log(root: Path) -> None:
    one, two = build(root, "skip", rule={"limit": 1}), build(root, "skip", rule={"limit": 1})
    assert one[1] is None
    with pytest.raises(DataError, match="2 bad files"):
        two[3]


def test_without_a_log_each_process_counts_for_itself(root: Path) -> None:
    dataset = build(root, "skip", rule={"limit": 1, "log": None})
    assert dataset[1] is None
    assert dataset[1] is None
    with pytest.raises(DataError, match="2 bad files"):
        dataset[3]


def test_stray_labels_are_bad_samples_too(root: Path) -> None:
    dataset = build(root, "skip", metainfo={"classes": ("ground", "tree")})
    assert dataset[0] is None
    assert "label 2 (" in log_of(root)[0]["cause"]


def test_a_pipeline_that_gives_none_is_tried_with_other_images(root: Path) -> None:
    def drop_a(sample: dict[str, Any]) -> dict[str, Any] | None:
        return None if sample["img_path"].endswith(("a.png", "b.png", "d.png")) else sample

    dataset = build(root, "raise", pipeline=[drop_a])
    assert Path(dataset[0]["img_path"]).stem in "cef"
    stubborn = build(root, "raise", pipeline=[lambda sample: None], max_refetch=3)
    with pytest.raises(DataError, match="no usable sample after 4 tries"):
        stubborn[0]
    strict = build(root, "raise", pipeline=[drop_a], test_mode=True)
    with pytest.raises(DataError, match="evaluation needs every image"):
        strict[0]


def test_errors_of_the_code_are_not_bad_samples(root: Path) -> None:
    def fail(sample: dict[str, Any]) -> None:
        raise KeyError("typo")

    with pytest.raises(KeyError):
        build(root, "skip", pipeline=[fail])[0]


def test_unknown_policies_are_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match="'ignore' is not one of"):
        build(root, "ignore")
    with pytest.raises(ConfigError, match="below 0"):
        build(root, "skip", rule={"limit": -1})
