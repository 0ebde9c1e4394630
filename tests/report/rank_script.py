"""What each process does in the test of a report of several processes."""

import sys
from pathlib import Path
from typing import Any

import torch

from nlseg.registry import DATASETS
from nlseg.run import processes
from nlseg.run.runner import Runner
from tests.report.test_hook import with_validation
from tests.run.tiny_segmentor import NoiseImages, labelled


@DATASETS.register_module(force=True)
class NumberedImages(NoiseImages):
    """Image i is the same in every process, and called i.png."""

    def __getitem__(self, index: Any) -> dict[str, Any]:
        number = int(getattr(index, "index", index))
        torch.manual_seed(number)
        image = torch.randint(256, (3, 48, 48), dtype=torch.uint8)
        return {"inputs": image, "data_samples": labelled((48, 48), f"{number}.png")}


if __name__ == "__main__":
    folder, launcher = sys.argv[1:]
    config = with_validation(Path(folder), launcher=launcher, randomness={"seed": 0})
    config.val_dataloader.dataset = {"type": "NumberedImages", "size": 9}
    config.default_hooks.report = {"type": "ReportHook", "examples": 2}
    Runner.from_cfg(config).val()
    processes.stop()
