import signal
from pathlib import Path

import pytest

from tests.faults import ranks
from tests.faults.kills import LAST
from tests.run.runs import final

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ranks.undisturbed(tmp_path_factory.mktemp("two"))


def test_worker_lost_three_times_ends_at_the_same_weights(tmp_path: Path, reference: Path) -> None:
    outcome = ranks.lose_workers(tmp_path, reference)
    assert outcome.notes == []
    assert outcome.lost == 0


def test_frozen_rank_writes_stacks_and_is_started_again(tmp_path: Path, reference: Path) -> None:
    outcome = ranks.freeze_rank(tmp_path, reference)
    assert outcome.notes == []
    assert outcome.lost == 0
    stacks = (tmp_path / "work/faults/stacks_rank_0.txt").read_text()
    # rank 0 waited for the other where gradients or flags are reduced
    assert any(place in stacks for place in ("_engine_run_backward", "all_reduce"))
    assert "nlseg/run/loop.py" in stacks


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_launcher_asked_to_stop_goes_on_exactly(
    tmp_path: Path, reference: Path, number: int
) -> None:
    outcome = ranks.ask_torchrun_to_stop(tmp_path, reference, 11, number)
    assert outcome.notes == []
    assert outcome.lost == 0


def test_nan_on_one_rank_stops_both_before_the_step(tmp_path: Path) -> None:
    codes, output, reports = ranks.meet_nan(tmp_path, "stop")
    assert codes == [1, 1]
    assert output.count("error: iteration 6: a loss or gradient is not finite") == 2
    assert [report["rank"] for report in reports] == [0, 1]
    assert reports[0]["losses"]["loss"] != "nan"
    assert reports[1]["losses"]["loss"] == "nan"
    newest = final(tmp_path / "work", "iter_3.pth")
    assert all(weight.isfinite().all() for weight in newest["state_dict"].values())


def test_nan_on_one_rank_is_skipped_by_both(tmp_path: Path) -> None:
    codes, output, reports = ranks.meet_nan(tmp_path, "skip")
    assert codes == [0, 0], output
    assert len(reports) == 2
    content = final(tmp_path / "work", LAST)
    assert content["meta"]["non_finite"] == 1
    assert all(weight.isfinite().all() for weight in content["state_dict"].values())
