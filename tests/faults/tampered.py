"""Checkpoints that were changed, one field at a time, and JSON files beside them."""

import copy
import math
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nlseg.errors import CheckpointError
from nlseg.run import checkpoint
from tests.faults.forked import Child, Outcome, resumed, train_forked
from tests.faults.kills import LAST, hard_config
from tests.run.runs import assert_same, final, go_on, train
from tests.run.toy import toy_config

EMA: dict[str, Any] = {"custom_hooks": [{"type": "EMAHook", "momentum": 0.1}]}
Content = dict[str, Any]


def put(place: str, value: Any) -> Callable[[Content], None]:
    """Make what sets a field, named by its keys."""

    def change(content: Content) -> None:
        *path, last = [int(key) if key.isdigit() else key for key in place.split("/")]
        for key in path:
            content = content[key]
        content[last] = value

    return change


def drop(place: str) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        *path, last = [int(key) if key.isdigit() else key for key in place.split("/")]
        for key in path:
            content = content[key]
        del content[last]

    return change


MOMENTUM = "optimizer/state/0/momentum_buffer"
CHANGES = [
    (put("meta", None), r"meta\.iter: is missing"),
    (put("meta", 7), r"meta: is 7, not a dict"),
    (drop("meta/iter"), r"meta\.iter: is missing"),
    (put("meta/iter", "8"), r"meta\.iter: is '8', not a whole number"),
    (put("meta/iter", -1), r"meta\.iter: is -1"),
    (put("meta/iter", 10**6), r"has trained for 1000000, more than the 12"),
    (put("meta/epoch", "x"), r"meta\.epoch: is 'x'"),
    (put("meta/samples", -3), r"meta\.samples: is -3"),
    (put("meta/jumped", 0.5), r"meta\.jumped: is 0\.5"),
    (put("meta/seed", "x"), r"meta\.seed: is 'x'"),
    (put("meta/best", 3), r"meta\.best: is 3"),
    (put("meta/best/mIoU/score", "x"), r"meta\.best\.mIoU\.score: is 'x'"),
    (put("meta/best/mIoU/score", math.nan), r"meta\.best\.mIoU\.score: is nan"),
    (put("meta/best/mIoU/file", "../../x"), r"meta\.best\.mIoU\.file: is no name"),
    (put("meta/settings", "x"), r"meta\.settings: is 'x'"),
    (put("meta/settings/batch_size", None), None),  # as in a file of an older state
    (put("meta/settings/batch_size", "4"), r"meta\.settings\.batch_size: is '4'"),
    (put("meta/recent", {"train/loss": "x"}), r"meta\.recent\.train/loss: is no list"),
    (put("meta/recent", {"train/loss": [None]}), r"meta\.recent\.train/loss: holds what is no"),
    (put("optimizer", None), r"optimizer\.param_groups: is missing"),
    (put("optimizer", "x"), r"optimizer: is 'x', not a dict"),
    (put("optimizer/state", None), r"optimizer\.state: is missing"),
    (put(MOMENTUM, None), r"optimizer\.state\[0\]\.momentum_buffer"),
    (put(MOMENTUM, "x"), r"optimizer\.state\[0\]\.momentum_buffer: is 'x'"),
    (put(MOMENTUM, torch.ones(3)), r"momentum_buffer: has shape \(3,\), its parameter \(8, 6\)"),
    (put(MOMENTUM, torch.full((8, 6), math.nan)), r"momentum_buffer: holds NaN"),
    (drop(MOMENTUM), r"optimizer\.state\[0\]\.momentum_buffer: is missing, other parameters"),
    (drop("optimizer/state/2"), r"optimizer\.state: has 5 entries, but was written with 6"),
    (put("optimizer/param_groups/0/lr", "x"), r"optimizer\.param_groups\[0\]\.lr: is 'x'"),
    (put("optimizer/param_groups/0/params", [0, 1]), r"params: has 2 parameters, the optimizer 6"),
    (put("param_schedulers", [{}]), r"param_schedulers\[0\]: is not the state"),
    (put("param_schedulers", 3), r"param_schedulers: is not the state of 1"),
    (put("param_schedulers/0/last_step", "x"), r"param_schedulers\[0\]\.last_step: is 'x'"),
    (put("param_schedulers/0/last_step", None), r"param_schedulers\[0\]\.last_step: is None"),
    (put("state_dict/head.weight", None), r"state_dict\.head\.weight: is no tensor"),
    (put("ema_state_dict", "x"), r"ema_state_dict: is 'x'"),
    (put("ema_state_dict/module.head.bias", None), r"ema_state_dict\.module\.head\.bias: is no"),
    (put("ema_state_dict/module.head.bias", torch.ones(9)), r"module\.head\.bias: is no average"),
    (put("ema_state_dict/steps", torch.ones(2, 2)), r"ema_state_dict, or what a hook reads"),
    (put("message_hub", 7), r"message_hub: is 7"),
    (put("message_hub/runtime_info", [1]), r"message_hub\.runtime_info: is a list"),
]


def refuse_each(folder: Path) -> Outcome:
    """Resume from a checkpoint with one changed field after the other."""
    outcome = Outcome("one field changed")
    best = {"default_hooks.checkpoint.save_best": "mIoU"}
    train(toy_config(folder / "whole", **EMA, **best))
    content: Content = torch.load(folder / "whole/iter_8.pth", weights_only=True)
    for number, (change, said) in enumerate(CHANGES):
        if said is None:  # no fault
            continue
        outcome.injected += 1
        changed = copy.deepcopy(content)
        change(changed)
        (folder / str(number)).mkdir()
        torch.save(changed, folder / str(number) / "iter_8.pth")
        try:
            go_on(toy_config(folder / str(number), **EMA))
            outcome.notes.append(f"not refused: {said}")
        except CheckpointError as error:
            outcome.survived += bool(re.search(said, str(error)))
    return outcome


def harm_records(folder: Path, reference: Path, harm: str) -> Outcome:
    """Stop a run, harm the JSON beside each checkpoint, and go on.

    Args:
        folder: For this run.
        reference: The undisturbed run.
        harm: 'gone', 'empty', 'cut off', or 'copied' for checkpoints alone in another folder.
    """
    outcome = Outcome(f"JSON {harm}", injected=1)
    work, child = folder / "work", Child(hard_config(folder / "work"), hold_at=40)
    child.wait_for_beats(40)
    child.signal(signal.SIGTERM)
    try:
        assert child.wait() == 143, _told(work)
        newest = checkpoint.newest(work)[0]
        assert newest is not None
        if harm == "copied":
            work = folder / "copy"
            work.mkdir()
            for path in newest.parent.glob("*.pth"):
                shutil.copy(path, work)
        for record in work.glob("*.pth.json"):
            text = record.read_text()
            record.unlink()
            if harm != "gone":
                record.write_text({"empty": "", "cut off": text[:40]}[harm])
        assert train_forked(resumed(hard_config(work))) == 0, _told(work)
        assert f"resumed {work / newest.name} at iteration" in _told(work)
        assert_same(final(reference, LAST), final(work, LAST))
        outcome.survived = 1
    except AssertionError as error:
        outcome.fail(error)
    return outcome


def _told(folder: Path) -> str:
    return (folder / "child.log").read_text()
