"""A config of mmsegmentation trains and tests through the commands as it is."""

from pathlib import Path

import pytest

from tests.configs.foreign import write_foreign_tree
from tests.configs.shrink import write_data
from tests.run import prepared

ROOT = Path(__file__).parents[2]
CHANGES = [
    "crop_size=(64,128)", "max_iters=2", "num_workers=0", "batch_size=2", "model.pretrained=None",
    "train_pipeline.2.scale=(256,128)", "test_pipeline.1.scale=(256,128)",
    "model.backbone.base_channels=8", "model.backbone.stem_channels=8",
    "model.decode_head.in_channels=256", "model.decode_head.channels=16",
    "model.auxiliary_head.in_channels=128", "model.auxiliary_head.channels=8",
]  # fmt: skip


def run(tool: str, *args: object) -> str:
    done = prepared.run(str(ROOT / "tools" / tool), *map(str, args))
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


@pytest.mark.slow
def test_unmodified_config_trains_and_tests(tmp_path: Path) -> None:
    write_foreign_tree(tmp_path / "configs")
    write_data(tmp_path / "data", "CityscapesDataset")
    config = tmp_path / "configs/gcnet/gcnet_r50-d8_4xb2-40k_cityscapes-512x1024.py"
    assert "mmseg" in (tmp_path / "configs/_base_/default_runtime.py").read_text()
    work = tmp_path / "work"
    given = ["--work-dir", work, "--set", f"data_root={tmp_path / 'data'}", *CHANGES]
    assert "mIoU" in run("train.py", config, *given)
    assert (work / "iter_2.pth").is_file()
    assert "mIoU" in run("test.py", config, work / "iter_2.pth", *given)
