import random
import signal
from functools import partial
from pathlib import Path

import pytest
import torch

from nlseg.run import checkpoint, places
from tests.faults import saving  # noqa: F401 - registers HarmDisk
from tests.faults.forked import Child, resumed, train_forked
from tests.faults.kills import (
    LAST,
    damage_and_go_on,
    hard_config,
    kill_and_go_on,
    undisturbed,
)  # fmt: skip
from tests.run.runs import assert_same, final

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return undisturbed(tmp_path_factory.mktemp("reference"))


@pytest.mark.parametrize("background", [False, True], ids=["inline", "background"])
def test_killed_run_loses_nothing(tmp_path: Path, reference: Path, background: bool) -> None:
    changes = {"default_hooks.checkpoint.background": background}
    dice, kills = random.Random(background), 0
    for run in range(8):  # a fast machine ends a run after a few kills
        outcome = kill_and_go_on(tmp_path / str(run), reference, 8 - kills, dice, **changes)
        assert outcome.notes == []
        assert outcome.lost == 0
        kills += outcome.injected
        if kills >= 8:
            break
    assert kills >= 8


@pytest.mark.parametrize(
    "harm", ["truncated", "zero bytes", "one bit flipped", "gone", "unreadable record"]
)
def test_damaged_checkpoint_costs_only_time(tmp_path: Path, reference: Path, harm: str) -> None:
    assert damage_and_go_on(tmp_path, reference, harm).lost == 0


def test_disk_full_costs_only_time(
    tmp_path: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "PAUSES_S", (0.01,))
    config = hard_config(tmp_path, **{"default_hooks.checkpoint.save_limit": 0.0})
    child = Child(config, hold_at=10)
    child.wait_for_beats(10)
    child.signal(signal.SIGTERM)
    assert child.wait() == 143
    before = checkpoint.newest(tmp_path)[0]
    assert before is not None
    data = before.read_bytes()

    harmed = resumed(config)  # all saves fail from here on
    begun = int(before.stem.removeprefix("iter_"))
    harm = {"type": "HarmDisk", "disk": str(tmp_path), "plan": [(begun, "limit_files")]}
    harmed.custom_hooks = [*config.custom_hooks, harm]
    assert train_forked(harmed) == 1
    log = (tmp_path / "child.log").read_text()
    assert "cannot be written: File too large" in log
    assert "MiB are needed" in log
    assert checkpoint.newest(tmp_path)[0] == before
    assert before.read_bytes() == data
    assert not list(tmp_path.glob(".*tmp"))
    assert train_forked(resumed(config)) == 0
    assert_same(final(reference, LAST), final(tmp_path, LAST))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_signal_saves_and_leaves_with_143(
    tmp_path: Path, reference: Path, number: signal.Signals
) -> None:
    config = hard_config(tmp_path, workers=1)
    beats = 12 + int(number)
    by_default = partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)  # under nohup too
    child = Child(config, by_default, hold_at=beats)
    child.wait_for_beats(beats)
    child.signal(number)
    assert child.wait() == 143
    assert train_forked(resumed(config)) == 0
    assert_same(final(reference, LAST), final(tmp_path, LAST))


def test_second_signal_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nlseg.run import control

    monkeypatch.setattr(control, "_ONE_EVENT_S", 0.0)
    config = hard_config(tmp_path, **{"train_dataloader.dataset.sleep_at": 20})
    child = Child(config)
    try:
        child.wait_for_words("sample 20 is slow")
        child.signal(signal.SIGTERM)
        child.wait_for_words("SIGTERM: finishes this iteration")
        child.signal(signal.SIGTERM)
        code = child.wait()
    finally:
        if not child.has_ended():
            child.signal(signal.SIGKILL)
    assert code == 128 + signal.SIGTERM
    assert "SIGTERM again: stops at once" in child.log.read_text()


def test_limit_of_time_saves_and_leaves(tmp_path: Path, reference: Path) -> None:
    config = hard_config(tmp_path, max_time="0")
    assert train_forked(config) == 143
    assert checkpoint.newest(tmp_path)[0] == tmp_path / "iter_2.pth"
    config.max_time = None
    assert train_forked(resumed(config)) == 0
    assert_same(final(reference, LAST), final(tmp_path, LAST))
