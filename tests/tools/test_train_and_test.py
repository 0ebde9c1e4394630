import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nlseg.run.logs import read_scalars
from tests import tiny_data
from tests.run import prepared
from tests.run.real_processes import environment

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs/quickstart/nonlocal_r18-d8_1xb4-300_synthetic-96x192.py")
pytestmark = pytest.mark.slow


def run(tool: str, *arguments: str, code: int = 0, fresh: bool = False) -> str:
    """Run a tool to its end, in a fresh interpreter or a prepared one, and return what it said."""
    command = [str(ROOT / "tools" / tool), *arguments]
    if fresh:
        command.insert(0, sys.executable)
        result = subprocess.run(
            command, capture_output=True, text=True, env=environment(), timeout=300
        )
    else:
        result = prepared.run(*command)
    assert result.returncode == code, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    tiny_data.cityscapes(folder / "data")
    said = run(
        "train.py", CONFIG, "--work-dir", str(folder / "work"), "--cfg-options", *options(folder),
        fresh=True,
    )  # fmt: skip
    (folder / "said.txt").write_text(said)
    return folder


def options(folder: Path, iters: int = 2) -> list[str]:
    return [
        f"data_root={folder / 'data'}", f"train_cfg.max_iters={iters}", "train_cfg.val_interval=2",
        "default_hooks.logger.interval=1", "default_hooks.checkpoint.interval=2",
        "train_dataloader.batch_size=1", "train_dataloader.num_workers=0",
        "train_dataloader.persistent_workers=False", "val_dataloader.num_workers=0",
        "val_dataloader.persistent_workers=False", "test_dataloader.num_workers=0",
        "test_dataloader.persistent_workers=False",
    ]  # fmt: skip


@pytest.mark.parametrize("tool", ["train.py", "test.py"])
def test_help_imports_no_torch(tool: str) -> None:
    command = [sys.executable, "-X", "importtime", str(ROOT / "tools" / tool), "--help"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0
    assert "--launcher" in result.stdout
    modules = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert not modules & {"torch", "numpy", "mmengine"}


def test_training_leaves_checkpoint_curves_and_config(trained: Path) -> None:
    work = trained / "work"
    assert (work / "last_checkpoint").read_text() == "iter_2.pth"
    assert (work / Path(CONFIG).name).is_file()
    lines = read_scalars(work / "scalars.jsonl")
    assert [(line["kind"], line["step"]) for line in lines] == [
        ("train", 1),
        ("train", 2),
        ("val", 2),
        ("notes", 2),  # classes that are never predicted after two iterations
    ]
    assert {"loss", "decode.loss_ce", "aux.loss_ce", "lr", "time", "data_time", "memory"} <= set(
        lines[0]
    )


def test_training_ends_with_a_report_that_holds_its_config_and_command(trained: Path) -> None:
    page = (trained / "work/report.html").read_text()
    assert f"/{Path(CONFIG).name}:" in page  # where a value was written
    assert "--cfg-options train_cfg.max_iters=2" in page  # the origin of an override
    command = page.partition("Command: <code>")[2].partition("</code>")[0]
    assert command.partition(" ")[2].startswith(f"{ROOT / 'tools/train.py'} {CONFIG} --work-dir")


def test_end_of_training_names_the_checkpoint_and_a_command_that_runs(trained: Path) -> None:
    lines = (trained / "said.txt").read_text().splitlines()
    told = dict(line.split(maxsplit=1) for line in lines if line.startswith("  "))
    assert told["folder"] == str(trained / "work")
    assert told["checkpoint"] == str(trained / "work/best_mIoU_iter_2.pth")
    output = subprocess.run(
        shlex.split(told["next"]), capture_output=True, text=True, env=environment(), timeout=300
    )
    assert output.returncode == 0, output.stderr[-3000:]
    (best,) = (line for line in lines if "Best mIoU" in line)
    score = best.partition("Best mIoU ")[2].split()[0]
    assert f"mIoU: {score}" in output.stdout
    assert len(list((trained / "work").glob("*/report.html"))) == 1


def test_config_inside_the_run_folder_is_never_written_over(trained: Path) -> None:
    own = trained / "own/mine.py"
    own.parent.mkdir()
    own.write_text(f"_base_ = {CONFIG!r}\n")
    run("train.py", str(own), "--work-dir", str(own.parent), "--cfg-options", *options(trained, 1))
    assert own.read_text() == f"_base_ = {CONFIG!r}\n"
    assert (own.parent / "iter_1.pth").is_file()


def test_resumed_training_goes_on(trained: Path) -> None:
    output = run(
        "train.py", CONFIG, "--work-dir", str(trained / "work"), "--resume", "--amp",
        "--cfg-options", *options(trained, iters=3),
    )  # fmt: skip
    assert "resumed" in output
    assert "max_iters" in output  # in the table of what has changed
    assert (trained / "work/iter_3.pth").is_file()


def test_test_with_views_predictions_and_pictures_together(trained: Path) -> None:
    output = run(
        "test.py", CONFIG, str(trained / "work/iter_2.pth"), "--work-dir", str(trained / "test"),
        "--tta", "--out", str(trained / "out"), "--show-dir", str(trained / "show"), "--report",
        "--cfg-options", *options(trained),
    )  # fmt: skip
    assert "mIoU" in output
    for folder in ("out", "show"):
        assert len(list((trained / folder).rglob("*.png"))) == 1
        assert f": {trained / folder}" in output
    with Image.open(next((trained / "out").rglob("*.png"))) as predicted:
        assert predicted.mode == "P"  # seen in colour, read as class indices
        assert np.asarray(predicted).max() < 19
    assert not (trained / "test" / Path(CONFIG).name).exists()  # beside the log, as all of it
    assert len(list((trained / "test").glob(f"*/{Path(CONFIG).name}"))) == 1
    (page,) = (trained / "test").glob("*/report.html")
    assert "Where the points went" in page.read_text()
    (scores,) = (trained / "test").glob("*/per_class.json")
    assert f"scores of every class: {scores}" in output
    assert json.loads(scores.read_text())["classes"][0]["name"] == "road"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.py", "nowhere.py"], "error: nowhere.py"),
        (["train.py", CONFIG, "--cfg-options", "data_root=nowhere"], "nowhere"),
        (["test.py", CONFIG, "nowhere.pth"], "error: nowhere.pth: is not there"),
        (["train.py", CONFIG, "--launcher", "pytorch"], "the environment has no RANK"),
    ],
)
def test_users_mistake_ends_with_2_and_no_traceback(
    trained: Path, arguments: list[str], message: str
) -> None:
    tool, *rest = arguments
    if "--cfg-options" not in rest:
        rest += ["--cfg-options", *options(trained)]
    output = run(tool, *rest, "--work-dir", str(trained / "other"), code=2)
    assert message in output
    assert "Traceback" not in output


def test_weights_of_another_network_are_refused_with_a_list(trained: Path) -> None:
    output = run(
        "test.py", CONFIG, str(trained / "work/iter_2.pth"), "--work-dir", str(trained / "other"),
        "--cfg-options", *options(trained), "model.decode_head.channels=48", code=2,
    )  # fmt: skip
    assert "wrong shape" in output
    assert "decode_head" in output


def test_second_start_in_a_folder_is_refused_politely(trained: Path) -> None:
    import fcntl

    folder = trained / "locked"
    folder.mkdir()
    with open(folder / ".lock", "w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        lock.write(f"process {os.getpid()} on here")
        lock.flush()
        output = run(
            "train.py",
            CONFIG,
            "--work-dir",
            str(folder),
            "--cfg-options",
            *options(trained),
            code=2,
        )
    assert f"process {os.getpid()} on here trains in this folder" in output
