"""Processes and starts that are not of the same run."""

import signal
from pathlib import Path

from tests.faults.forked import Child, Outcome, resumed, train_forked
from tests.faults.kills import LAST, assert_ended_alike, hard_config
from tests.run.prepared import run_ranks
from tests.run.runs import assert_same, final

DIFFERENCES = {
    "config": "model.dropout - 0.5",
    "data": "train data ToyData, 23 images ToyData, 22 images",
    "weights": "weights",
}
"""What differs on one process: the row that all processes are told, by its beginning."""


def disagree(folder: Path) -> Outcome:
    """Give one of two processes another config, then other data, then other weights."""
    outcome = Outcome("one process with another config, data, weights", len(DIFFERENCES))
    folder.mkdir(parents=True, exist_ok=True)
    outputs = run_ranks(2, "-m", "tests.run.rank_script", "disagreeing", str(folder))
    rows = [[" ".join(line.split()) for line in output.splitlines()] for output in outputs]
    for row in DIFFERENCES.values():
        outcome.survived += all(any(line.startswith(row) for line in told) for told in rows)
    return outcome


def share_a_folder(folder: Path, reference: Path) -> Outcome:
    """Start a second run in the folder of one that trains."""
    outcome = Outcome("second run in one folder", injected=1)
    first = Child(hard_config(folder / "work"), hold_at=10)
    first.wait_for_beats(10)
    second = Child(hard_config(folder / "work"), log_dir=folder / "second")
    try:
        assert second.wait() == 2
        assert "trains in this folder" in (folder / "second/child.log").read_text()
        first.signal(signal.SIGTERM)
        assert first.wait() == 143
        assert train_forked(resumed(hard_config(folder / "work"))) == 0
        assert_ended_alike(reference, folder / "work")
        outcome.survived = 1
    except AssertionError as error:
        outcome.fail(error)
    return outcome


def give_up_the_average(folder: Path) -> Outcome:
    """Go on without ``EMAHook``: with the weights that were trained, and the hook named as gone."""
    outcome = Outcome("resumed without EMAHook", injected=1)
    never = {"custom_hooks": []}
    child = Child(hard_config(folder / "work"), hold_at=40)
    child.wait_for_beats(40)
    child.signal(signal.SIGTERM)
    try:
        assert child.wait() == 143
        assert train_forked(hard_config(folder / "never", **never)) == 0
        assert train_forked(resumed(hard_config(folder / "work", **never))) == 0
        told = (folder / "work/child.log").read_text()
        assert "its weights are an average (EMAHook)" in told
        ends = [final(folder / name, LAST) for name in ("never", "work")]
        for end in ends:
            end["meta"].pop("best")  # of the average, up to then
        assert_same(*ends)
        outcome.survived = 1
    except AssertionError as error:
        outcome.fail(error)
    return outcome
