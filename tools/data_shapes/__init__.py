"""Shapes of data, and the comparison of planned configs with the VOC base config on them."""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import timedelta
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from nlseg.config import load_config
from nlseg.config.published import find_config
from nlseg.errors import UserError
from nlseg.intake.writing import BASE
from nlseg.start.labels import Said
from nlseg.start.planning import Plan, make_plan
from nlseg.start.request import Request
from nlseg.table import format_table

Picture = tuple[NDArray[Any], NDArray[np.uint8]]
CAMVID = "sky,building,pole,road,pavement,tree,sign,fence,car,pedestrian,bicyclist,unlabelled"
RESULTS = "results.jsonl"
STOPPED = 143  # a run that was told when to stop


def vessels(rng: np.random.RandomState) -> Picture:
    """Draw thin bright lines: 0 and 255."""
    mask = np.zeros((160, 200), np.uint8)
    for _ in range(6):
        steps = rng.randint(-25, 25, (5, 2))
        start = [[rng.randint(0, 200), rng.randint(0, 160)]]
        points = np.cumsum(np.vstack([start, steps]), 0).astype(np.int32)
        cv2.polylines(mask, [points], False, 255, 3)
    image = rng.randint(60, 120, (160, 200, 3)) + (mask[..., None] > 0) * np.array([30, 50, 10])
    return image.astype(np.uint8), mask


def eleven_classes(rng: np.random.RandomState) -> Picture:
    """Draw eight kinds of ground in blocks, and three rare kinds of small things on them."""
    mask = np.kron(rng.randint(0, 8, (3, 4)), np.ones((48, 48))).astype(np.uint8)
    for kind in (8, 9, 10):
        y, x = rng.randint(4, 130), rng.randint(4, 180)
        cv2.circle(mask, (x, y), 6, kind, -1)
    colours = np.random.RandomState(1).randint(30, 200, (11, 3))
    return (colours[mask] + rng.randint(-30, 30, (*mask.shape, 3))).clip(0, 255).astype(
        np.uint8
    ), mask


def grey_16_bit(rng: np.random.RandomState) -> Picture:
    """Draw cells in grey, of which the lowest 12 of 16 bits are used: 0 and 1."""
    mask = np.zeros((160, 192), np.uint8)
    for _ in range(9):
        centre = (int(rng.randint(0, 192)), int(rng.randint(0, 160)))
        cv2.ellipse(mask, centre, (14, 9), float(rng.randint(0, 180)), 0, 360, 1, -1)
    return (mask * 900.0 + rng.randint(700, 2200, mask.shape)).astype(np.uint16), mask


def few_labels(rng: np.random.RandomState) -> Picture:
    """Draw large fields of three kinds, 3,000 px wide, of which a few patches are labelled."""
    whole = np.kron(rng.randint(0, 3, (5, 5)), np.ones((600, 600))).astype(np.uint8)
    colours = np.array([[90, 120, 80], [110, 100, 90], [80, 110, 120]])
    noise = rng.randint(-40, 40, (750, 750, 3)).repeat(4, 0).repeat(4, 1)
    mask = np.full_like(whole, 255)
    for _ in range(12):
        y, x = rng.randint(0, 2600, 2)
        mask[y : y + 400, x : x + 400] = whole[y : y + 400, x : x + 400]
    return (colours[whole] + noise).clip(0, 255).astype(np.uint8), mask


SHAPES: dict[str, tuple[Callable[[np.random.RandomState], Picture], int, int, str, str | None]] = {
    "thin lines, 0 and 255": (vessels, 24, 4, ".png", None),
    "11 classes, three rare": (eleven_classes, 24, 4, ".png", ",".join(map(str, range(11)))),
    "grey, 12 of 16 bits": (grey_16_bit, 24, 4, ".tif", None),
    "3,000 px, few labels": (few_labels, 6, 2, ".jpg", "field,wood,water"),
}  # fmt: skip
"""Name -> how it is drawn, images that train, images that test, suffix, names of classes."""


def draw(name: str, folder: Path) -> None:
    """Write images and masks of a shape, once."""
    picture, num_train, num_test, suffix, _ = SHAPES[name]
    rng = np.random.RandomState(0)
    for split, number in (("train", num_train), ("test", num_test)):
        for i in range(number):
            image, mask = picture(rng)
            for kind, array, end in (("images", image, suffix), ("masks", mask, ".png")):
                path = folder / kind / split / f"{i:03d}{end}"
                path.parent.mkdir(parents=True, exist_ok=True)
                if not path.is_file():
                    cv2.imwrite(str(path), array)


def link_road_scenes(source: Path, folder: Path, num_test: int = 4) -> None:
    """Link all training images of CamVid and some test images, evenly spaced."""
    for split in ("train", "test"):
        images = sorted((source / "images" / split).iterdir())
        if split == "test":
            images = images[:: max(1, len(images) // num_test)][:num_test]
        for image in images:
            mask = source / "annotations" / split / f"{image.stem}.png"
            for kind, file in (("images", image), ("annotations", mask)):
                link = folder / kind / split / file.name
                link.parent.mkdir(parents=True, exist_ok=True)
                if not link.is_symlink():
                    link.symlink_to(file.resolve())


PLANNED = ("pipeline", "cache", "cache_dir")
"""What a plan chooses for a data set; the rest of its settings say what the data is."""


def base_text(planned: Path, num_classes: int) -> str:
    """Return the base config on the data set of a planned one."""
    data = load_config(planned)
    own = {}
    for split in ("train", "test"):
        settings = data[f"{split}_dataloader"].dataset.to_dict()
        own[split] = {key: value for key, value in settings.items() if key not in PLANNED}
    return f"""_base_ = {str(find_config(BASE))!r}
data_check = 'warn'  # it loads 16 bits as 8, which are nearly black here
train = dict(_delete_=True, **{own["train"]!r})
test = dict(_delete_=True, **{own["test"]!r})
train_dataloader = dict(dataset=dict(**train, pipeline={{{{_base_.train_pipeline}}}}))
test_dataloader = dict(dataset=dict(**test, pipeline={{{{_base_.test_pipeline}}}}))
val_dataloader = test_dataloader
model = dict(
    pretrained=None,
    decode_head=dict(num_classes={num_classes}),
    auxiliary_head=dict(num_classes={num_classes}))
"""


def run(*words: str) -> float:
    """Run a command of nlseg; return its seconds.

    Raises:
        UserError: It failed.
    """
    started = time.perf_counter()
    command = [sys.executable, "-m", "nlseg", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, STOPPED):
        raise UserError(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.perf_counter() - started


def score(config: Path, folder: Path, *, tta: bool) -> float:
    """Test the last weights of a run; return the mIoU in percent."""
    weights = folder / (folder / "last_checkpoint").read_text().strip()
    out = folder / "test"
    run("test", str(config), str(weights), "--work-dir", str(out), *(["--tta"] if tta else []))
    (file,) = out.glob("*/receipt.json")
    found: float = json.loads(file.read_text())["scores"]["mIoU"]
    return found


def compare(name: str, plan: Plan, seed: int) -> dict[str, Any]:
    """Train and test both configs with a seed."""
    folder = plan.config.parent
    base = plan.config.with_name("base.py")
    own, theirs = (folder / f"{kind}_{seed}_{time.time():.0f}" for kind in ("planned", "base"))
    words = ["--set", f"randomness.seed={seed}"]
    seconds = run("train", str(plan.config), "--work-dir", str(own), *words)
    limit = str(timedelta(seconds=round(seconds)))
    took = run("train", str(base), "--work-dir", str(theirs), "--max-time", limit, *words)
    last = (theirs / "last_checkpoint").read_text()
    return {
        "shape": name, "seed": seed, "seconds": seconds, "base_seconds": took,
        "steps": plan.iterations, "base_steps": int("".join(filter(str.isdigit, last))),
        "planned": score(plan.config, own, tta=plan.tta), "base": score(base, theirs, tta=False),
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """Lay out the results: a row a shape, means over the seeds and their extremes."""
    lines = []
    for name in dict.fromkeys(row["shape"] for row in rows):
        own = [row for row in rows if row["shape"] == name]
        cells = [name, str(len(own)), f"{np.mean([row['seconds'] for row in own]):.0f}"]
        for kind, steps in (("planned", "steps"), ("base", "base_steps")):
            scores = [row[kind] for row in own]
            counts = sorted({row[steps] for row in own})
            span = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
            cells += [span, f"{np.mean(scores):.2f} ({min(scores):.2f} to {max(scores):.2f})"]
        lines.append(cells)
    header = ("shape", "seeds", "seconds", "steps", "planned: mIoU", "steps", "base: mIoU")
    return format_table(header, lines)


def plan_data(args: argparse.Namespace, number: int, name: str) -> Plan:
    """Draw or link a shape's data and plan a config for it, once, and the base beside it."""
    folder = args.folder / f"shape_{number}"
    if name in SHAPES:
        draw(name, folder / "data")
    else:
        link_road_scenes(args.road_scenes, folder / "data")
    classes = SHAPES[name][4] if name in SHAPES else CAMVID
    request = Request(
        folder / "data", folder / "planned.py", args.seconds, said=Said(), classes=classes,
        fetch=False,
    )  # fmt: skip
    plan = make_plan(request, progress=False)
    config = load_config(plan.config)
    base = plan.config.with_name("base.py")
    base.write_text(base_text(plan.config, config.model.decode_head.num_classes))
    return plan


def take_cores(shares: "Queue[set[int]]") -> None:
    """Keep a process, and those that it starts, to the next share of the cores."""
    share = shares.get()
    os.sched_setaffinity(0, share)
    torch.set_num_threads(len(share))  # it counted the cores when it was imported


def compare_all(args: argparse.Namespace) -> None:
    """Run every shape for every seed, ``args.jobs`` at a time."""
    args.folder.mkdir(parents=True, exist_ok=True)
    file = args.folder / RESULTS
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    names = [*SHAPES, *(["road scenes"] if args.road_scenes is not None else [])]
    cores = sorted(os.sched_getaffinity(0))
    spawn = multiprocessing.get_context("spawn")
    shares = spawn.Queue()
    for job in range(args.jobs):
        shares.put(set(cores[job :: args.jobs]))
    with ProcessPoolExecutor(args.jobs, spawn, take_cores, (shares,)) as pool:
        planned = [pool.submit(plan_data, args, i, name) for i, name in enumerate(names)]
        plans = [future.result() for future in planned]
        running = [
            pool.submit(compare, name, plan, seed)
            for seed in range(args.seeds)
            for name, plan in zip(names, plans, strict=True)
            if not any((row["shape"], row["seed"]) == (name, seed) for row in rows)
        ]
        for future in as_completed(running):
            rows.append(future.result())
            rows.sort(key=lambda row: names.index(row["shape"]))
            with file.open("a") as results:
                results.write(json.dumps(future.result()) + "\n")
            print(table(rows), flush=True)
