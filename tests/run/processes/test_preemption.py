import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook

from nlseg.errors import ConfigError
from nlseg.registry import HOOKS
from nlseg.run.control import Preempted, StopRequests, parse_duration
from nlseg.run.processes import Agreement
from tests.cases import each_case
from tests.run.runs import train
from tests.run.toy import toy_config


@each_case(
    "text, seconds",
    [("3:50:00", 13800), ("50:00", 3000), ("90m", 5400), ("1d2h", 93600), ("45", 45), (2.5, 2.5)],
)
def test_durations(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@each_case("text", ["soon", "3h half", "", "-5", "1:2:3:4"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no duration"):
        parse_duration(text)


def test_time_is_over_before_the_limit() -> None:
    agreement = Agreement(torch.device("cpu"))
    requests = StopRequests(agreement, max_time_s=100.0)
    requests.check_time()
    assert not agreement.stop_asked
    requests.check_time(reserve_s=101.0)  # a validation that takes longer than what is left
    assert agreement.stop_asked
    assert requests.reason == "--max-time 100 s"


def test_stop_is_agreed_on_in_the_next_iteration() -> None:
    agreement = Agreement(torch.device("cpu"))
    assert [verdict.stop for verdict in agreement.close(0)] == [False]
    agreement.ask_to_stop()
    (verdict,) = agreement.close(1)
    assert verdict.stop
    assert verdict.iteration == 1


def test_hangup_is_left_alone_where_nohup_has_turned_it_off() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequests(Agreement(torch.device("cpu"))):
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with StopRequests(Agreement(torch.device("cpu"))):
            assert callable(signal.getsignal(signal.SIGHUP))
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_next_validation_takes_as_long_as_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    requests = StopRequests(Agreement(torch.device("cpu")), max_time_s=100.0)
    now[0] = 2.0
    requests.check_time()  # the longest stretch is 2 s
    assert requests.validation_takes(30) == 60.0  # before the first one: 30 batches of 2 s
    now[0] = 40.0
    requests.note_validation(38.0)
    assert requests.validation_takes(30) == 38.0
    now[0] = 42.0
    requests.check_time()  # the validation was no ordinary stretch
    assert requests.validation_takes(30) == 38.0
    assert not requests.agreement.stop_asked
    now[0] = 59.0
    requests.check_time(38.0)  # 59 + 17 + 38 > 100
    assert requests.agreement.stop_asked


@HOOKS.register_module(force=True)
class SlowValidations(Hook):
    """Lets the first validation seem to have taken a million seconds, and counts them."""

    started = 0

    def before_val_epoch(self, runner: Any) -> None:
        SlowValidations.started += 1

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter == 6:
            runner.control.requests.note_validation(1e6)


def test_limit_of_time_keeps_back_what_the_next_validation_takes(tmp_path: Path) -> None:
    SlowValidations.started = 0
    config = toy_config(tmp_path, max_time="10000", custom_hooks=[{"type": "SlowValidations"}])
    with pytest.raises(Preempted, match="143"):
        train(config)
    assert (tmp_path / "last_checkpoint").read_text() == "iter_8.pth"
    log = next(tmp_path.glob("*/*.log")).read_text()
    assert "--max-time 10000 s; saved" in log
    assert log.count("mIoU: ") == 1  # the second was left at its first batch
