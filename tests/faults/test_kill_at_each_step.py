"""Kill a run between every two steps of a save: one checkpoint is kept, and it must be there."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nlseg.run import checkpoint, keeper
from tests.faults.forked import resumed, train_forked
from tests.faults.kills import assert_ended_alike, hard_config, undisturbed

pytestmark = pytest.mark.slow
STEPS = {
    "data under its temporary name": (torch, "save"),
    "data is renamed": (os, "replace"),
    "record": (checkpoint, "write_record"),
    "pointer": (checkpoint, "point_to"),
    "old one is deleted": (checkpoint, "prune"),
    "best one": (keeper, "link_or_copy"),
    "old best one is deleted": (checkpoint, "remove"),
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return undisturbed(tmp_path_factory.mktemp("reference"))


def kill_in_call(module: Any, name: str, number: int) -> Callable[[], None]:
    """Make what kills its process when a function is about to be called for the n-th time."""
    trials = 1 if name == "save" else 0  # a trial save comes before the first one that counts

    def prepare() -> None:
        original = getattr(module, name)
        calls = iter(range(-trials, 1000))

        def killing(*args: Any, **options: Any) -> Any:
            if next(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **options)

        setattr(module, name, killing)

    return prepare


@pytest.mark.parametrize("step", list(STEPS)[:5])
def test_one_checkpoint_is_enough(tmp_path: Path, step: str) -> None:
    """Without a best checkpoint, which would stand in, the newest must be there on its own."""
    alone = {"default_hooks.checkpoint.save_best": None}
    whole = undisturbed(tmp_path / "whole", **alone)
    config = hard_config(tmp_path / "run", **alone)
    assert train_forked(config, kill_in_call(*STEPS[step], 3)) == -signal.SIGKILL
    assert checkpoint.newest(tmp_path / "run")[0] is not None
    assert train_forked(resumed(config)) == 0
    assert_ended_alike(whole, tmp_path / "run")


def test_kill_before_the_last_deletion_leaves_no_old_file(tmp_path: Path, reference: Path) -> None:
    config = hard_config(tmp_path)
    prepare = kill_in_call(checkpoint, "prune", 9)  # the tenth save is the last one
    assert train_forked(config, prepare) == -signal.SIGKILL
    assert (tmp_path / "iter_27.pth").is_file()
    assert train_forked(resumed(config)) == 0
    assert_ended_alike(reference, tmp_path)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("number", [0, 1])
def test_kill_before_a_step_loses_nothing(
    tmp_path: Path, reference: Path, step: str, number: int
) -> None:
    config = hard_config(tmp_path)
    code = train_forked(config, kill_in_call(*STEPS[step], number))
    assert code == -signal.SIGKILL, "the step was never reached"
    if any(tmp_path.glob("*.pth")):
        assert checkpoint.newest(tmp_path)[0] is not None
    if number:
        assert any(tmp_path.glob("*.pth"))
    assert train_forked(resumed(config)) == 0
    assert_ended_alike(reference, tmp_path)
