"""Commands answer, and training begins, without importing what is not used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cases import each_case

ROOT = Path(__file__).parents[1]
TOOLS = sorted(
    path
    for path in (ROOT / "tools").rglob("*.py")
    if "ArgumentParser" in path.read_text() or "nlseg.commands" in path.read_text()
    if path.parent.name != "gpu_proof"  # steps of tools/gpu_proof.sh, which need a GPU's PyTorch
)
HEAVY = {"torch", "numpy", "cv2", "mmengine", "mmcv", "scipy", "matplotlib"}
UNUSED = {"tensorboard", "matplotlib", "scipy", "torchvision", "safetensors", "pandas"}
QUICKSTART = ROOT / "configs/quickstart/nonlocal_r18-d8_1xb4-300_synthetic-96x192.py"


def imported_by(*command: str, cwd: Path = ROOT) -> set[str]:
    """Run Python and return the top-level packages that it imported."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command],
        capture_output=True, text=True, env=environment, cwd=cwd,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in lines}


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert imported_by("-c", "import nlseg") & HEAVY == set()


@each_case("tool", TOOLS)
def test_help_imports_nothing_heavy(tool: Path) -> None:
    assert imported_by(str(tool), "--help") & HEAVY == set()


def test_what_is_imported_is_seen() -> None:
    assert {"json", "numpy"} <= imported_by("-c", "import json, numpy")


@pytest.mark.slow
def test_the_first_iteration_imports_only_what_the_run_uses(tmp_path: Path) -> None:
    imported_by(
        "tools/draw_dataset.py", str(tmp_path / "data"), "--num-train", "2", "--num-val", "1"
    )
    found = imported_by(
        "tools/train.py", str(QUICKSTART), "--work-dir", str(tmp_path / "run"), "--cfg-options",
        f"data_root={tmp_path}/data", "train_cfg.max_iters=1", "train_dataloader.num_workers=0",
        "train_dataloader.persistent_workers=False", "val_dataloader=None", "val_cfg=None",
        "val_evaluator=None", "default_hooks.logger.tensorboard=False",
    )  # fmt: skip
    assert "torch" in found
    assert found & UNUSED == set()
    assert (tmp_path / "run/iter_1.pth").is_file()
