"""Train on CamVid from random weights to its mIoU, killed once on the way and resumed.

python -m gpu_proof.camvid 18 --data data/camvid --out OUT --work DIR --result FILE

A call that is ended resumes from its newest checkpoint the next time.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gpu_proof.arguments import step_parser, write_result
from gpu_proof.data import QUICKSTART, scenes
from gpu_proof.stages import ROOT
from nlseg.commands.analyze_logs import main as analyze_logs
from nlseg.errors import UserError
from nlseg.visualization.pictures import side_by_side, write_picture

ITERATIONS = {"18": 8000, "50": 5000}
"""What a GPU trains in about five minutes."""
_POLL_S = 0.5


def train_command(args: argparse.Namespace, run: Path) -> list[str]:
    """Return the command that trains, and goes on from what is there."""
    iterations = 12 if args.dry else ITERATIONS[args.depth]
    every = 3 if args.dry else 250
    name = f"configs/nonlocal_net/nonlocal_r{args.depth}-d8_1xb4-20k_camvid-360x480.py"
    config = QUICKSTART if args.dry else ROOT / name
    data = scenes(args.work, args.dry) if args.dry else args.data
    workers = 1 if args.dry else 6
    return [
        sys.executable, str(ROOT / "tools/train.py"), str(config), "--fast", "--resume",
        "--work-dir", str(run), "--cfg-options", f"data_root={data}", "model.pretrained=None",
        f"max_iters={iterations}", f"train_cfg.val_interval={4 * every}",
        f"default_hooks.checkpoint.interval={every}", "default_hooks.checkpoint.save_best=mIoU",
        f"train_dataloader.num_workers={workers}", f"val_dataloader.num_workers={workers}",
        f"test_dataloader.num_workers={workers}", "randomness.seed=0",
        "train_dataloader.dataset.cache=memmap",
    ]  # fmt: skip


def train_and_kill(command: list[str], run: Path) -> int:
    """Begin the training, and kill it when a checkpoint is there; return its iteration.

    Raises:
        UserError: It ended by itself before.
    """
    process = subprocess.Popen(command)  # in the step's session: what ends the step ends it, too
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        while not (run / "last_checkpoint").exists():
            if process.poll() is not None:
                raise UserError(f"the training ended before its first checkpoint: {command}")
            time.sleep(_POLL_S)
    finally:
        killed = workers.read_text().split() if process.poll() is None else []
        process.kill()
        process.wait()
        for pid in killed:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    name = Path((run / "last_checkpoint").read_text().strip()).stem
    return int(name.rpartition("_")[2])


def test(args: argparse.Namespace, run: Path) -> dict[str, Any]:
    """Test the best checkpoint, or the last where none has a score, and return the scores."""
    best = max(run.glob("best_*.pth"), default=None, key=lambda file: file.stat().st_mtime)
    last = run / Path((run / "last_checkpoint").read_text().strip()).name
    train = train_command(args, run)
    data = train[train.index("--cfg-options") + 1]
    shown = run / "pictures"
    subprocess.run(
        [
            sys.executable, str(ROOT / "tools/test.py"), train[2], str(best or last), "--fast",
            "--work-dir", str(run / "test"), "--show-dir", str(shown), "--cfg-options", data,
            "model.pretrained=None",
        ],
        check=True,
    )  # fmt: skip
    (scores,) = list((run / "test").rglob("per_class.json"))[-1:]
    pictures = sorted(shown.rglob("*.png"))[:3]
    rows = [np.asarray(Image.open(picture).convert("RGB")) for picture in pictures]
    write_picture(run / "pictures.png", side_by_side(rows, gap=4))
    found: dict[str, Any] = json.loads(scores.read_text())
    return found


def join(upper: Path, lower: Path, file: Path) -> None:
    """Write two pictures as one, the lower one as wide as the upper one."""
    top, bottom = (Image.open(one).convert("RGB") for one in (upper, lower))
    bottom = bottom.resize((top.width, bottom.height * top.width // bottom.width))
    both = Image.new("RGB", (top.width, top.height + bottom.height), "white")
    both.paste(top)
    both.paste(bottom, (0, top.height))
    write_picture(file, np.asarray(both))


def main() -> None:
    parser = step_parser(__doc__)
    parser.add_argument("depth", choices=tuple(ITERATIONS), help="of the ResNet")
    parser.add_argument("--data", type=Path, help="folder of CamVid")
    parser.add_argument("--out", type=Path, required=True, help="folder of curve and pictures")
    args = parser.parse_args()
    run = args.work / "runs" / f"camvid_r{args.depth}"
    command = train_command(args, run)
    note = run / "killed_at.json"
    if not note.exists():
        shutil.rmtree(run, ignore_errors=True)
        killed_at = train_and_kill(command, run)
        note.write_text(json.dumps(killed_at))
        print(f"killed after iteration {killed_at}; resuming", flush=True)
    subprocess.run(command, check=True)
    scores = test(args, run)
    curve = run / "curve.png"
    keys = ("loss",) if args.dry else ("mIoU", "loss")  # where nothing computes, nothing scores
    title = f"CamVid, R-{args.depth}"
    analyze_logs([str(run), "--out", str(curve), "--title", title, "--keys", *keys])
    join(curve, run / "pictures.png", args.out / f"camvid_r{args.depth}.png")
    write_result(args, {"killed_at": json.loads(note.read_text()), "scores": scores})


if __name__ == "__main__":
    from nlseg.run import command

    command.run(main)
