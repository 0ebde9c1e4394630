"""Kill a training again and again, with one checkpoint kept and the best one saved."""

import random
import signal
from pathlib import Path
from typing import Any

from mmengine.config import Config

from nlseg.run import checkpoint
from tests.faults.forked import Child, Outcome, kill_at_random, resumed, train_forked
from tests.run.runs import assert_same, curves, final
from tests.run.toy import toy_config

ITERS = 30
LAST = f"iter_{ITERS}.pth"


def hard_config(folder: Path, **changes: Any) -> Config:
    """Make a run that saves every 3 iterations, keeps one checkpoint, the best, and an average."""
    hard = {
        "default_hooks.checkpoint.interval": 3,
        "default_hooks.checkpoint.max_keep_ckpts": 1,
        "default_hooks.checkpoint.save_best": "mIoU",
        "train_cfg.val_interval": 3,
        "model.width": 2000,
        "custom_hooks": [{"type": "EMAHook", "momentum": 0.1}],
    }
    return toy_config(folder, iters=ITERS, **{**hard, **changes})


def undisturbed(folder: Path, **changes: Any) -> Path:
    """Train once without a fault and return its folder."""
    config = hard_config(folder, **changes)
    assert train_forked(config) == 0, (folder / "child.log").read_text()[-2000:]
    return folder


def assert_ended_alike(one: Path, other: Path) -> None:
    """Compare last and best checkpoints and curves, bit by bit."""
    names = {path.name for path in one.glob("*.pth")}
    others = {path.name for path in other.glob("*.pth")}
    assert names == others, f"files {sorted(others)} instead of {sorted(names)}"
    for name in names:
        assert_same(final(one, name), final(other, name), name)
    assert curves(one) == curves(other), "curves differ"


def kill_and_go_on(
    folder: Path, reference: Path, kills: int, dice: random.Random, **changes: Any
) -> Outcome:
    """Kill one run up to ``kills`` times, go on after each, and compare where it ends.

    A kill is survived when a whole checkpoint is there afterwards (once there was one), and when
    the run in the end equals the undisturbed one.
    """
    outcome = Outcome("SIGKILL at a random moment")
    config = hard_config(folder, **changes)
    had_one = False
    for _ in range(kills):
        code = kill_at_random(Child(resumed(config)), dice, most_beats=14, most_s=0.03)
        if code == 0:
            break  # it had finished before
        assert code == -signal.SIGKILL, (folder / "child.log").read_text()[-2000:]
        outcome.injected += 1
        whole = checkpoint.newest(folder)[0]
        outcome.survived += whole is not None or not had_one
        had_one = had_one or whole is not None
    code = train_forked(resumed(config))
    try:
        assert code == 0, (folder / "child.log").read_text()[-2000:]
        assert_ended_alike(reference, folder)
    except AssertionError as error:
        outcome.survived = 0
        outcome.notes.append(f"{folder}: {error}")
    return outcome


def damage_and_go_on(folder: Path, reference: Path, harm: str) -> Outcome:
    """Harm the newest of two checkpoints of a stopped run, go on, and compare where it ends.

    Args:
        folder: For this run.
        reference: The undisturbed run.
        harm: 'truncated', 'zero bytes', 'one bit flipped', 'gone' or 'unreadable record'.
    """
    outcome = Outcome(f"checkpoint {harm}", injected=1)
    config = hard_config(folder, **{"default_hooks.checkpoint.max_keep_ckpts": 2})
    child = Child(config, hold_at=40)
    child.wait_for_beats(40)
    child.signal(signal.SIGTERM)
    assert child.wait() == 143
    newest = checkpoint.newest(folder)[0]
    assert newest is not None
    _harm(newest, harm)
    one_kept = hard_config(folder)
    if train_forked(resumed(one_kept)) == 0:
        assert newest.name in (folder / "child.log").read_text()  # named in a warning
        assert_same(final(reference, LAST), final(folder, LAST))
        outcome.survived = 1
    return outcome


def _harm(path: Path, harm: str) -> None:
    data = bytearray(path.read_bytes())
    if harm == "gone":
        path.unlink()
        return
    if harm == "unreadable record":
        path.with_name(path.name + ".json").write_text("{")
        return
    flipped = data.copy()
    flipped[len(data) // 3] ^= 4
    path.unlink()  # the best one may be another name of this file, and stays whole
    path.write_bytes({"truncated": data[: len(data) // 2], "zero bytes": b"",
                      "one bit flipped": flipped}[harm])  # fmt: skip
