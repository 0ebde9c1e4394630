"""Every config builds, takes a training step, validates and tests, at reduced size."""

import math
from pathlib import Path

import pytest
import torch

from nlseg.config import load_config
from nlseg.run.runner import Runner
from tests.configs.shrink import CLASSES, shrink, write_data
from tests.models.timm_here import skip_without_timm

CONFIGS = Path(__file__).parents[2] / "configs"
EVERY = sorted(path for path in CONFIGS.glob("*/*.py") if path.parent.name != "_base_")
WITH_REPORT = {path.stem.rpartition("_")[2].partition("-")[0]: path for path in EVERY}
"""A config of each data set; a page takes more than half of so short a run."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    roots = {kind: tmp_path_factory.mktemp(kind) for kind in CLASSES}
    for kind, root in roots.items():
        write_data(root, kind)
    return roots


@pytest.mark.slow
@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.stem)
def test_config_trains_and_tests(path: Path, data: dict[str, Path], tmp_path: Path) -> None:
    torch.set_num_threads(1)
    config = load_config(path)
    if config.model.backbone.type == "TIMMBackbone":
        skip_without_timm()
    config = shrink(config, data[config.val_dataloader.dataset.type], tmp_path)
    if path not in WITH_REPORT.values():
        config.default_hooks = {**config.get("default_hooks", {}), "report": None}
    runner = Runner.build(config)
    before = [parameter.detach().clone() for parameter in runner.model.parameters()]
    runner.train()
    moved = [not torch.equal(a, b) for a, b in zip(before, runner.model.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2
    scores = runner.test()
    assert {"aAcc", "mIoU", "mAcc"} <= scores.keys()
    assert not math.isnan(scores["aAcc"])
    assert (tmp_path / "report.html").is_file() == (path in WITH_REPORT.values())
