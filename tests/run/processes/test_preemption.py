import pytest
import torch

from nlseg.errors import ConfigError
from nlseg.run.control import StopRequests, parse_duration
from nlseg.run.processes import Agreement


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3:50:00", 13800), ("50:00", 3000), ("90m", 5400), ("1d2h", 93600), ("45", 45), (2.5, 2.5)],
)
def test_durations(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["soon", "3h half", "", "-5", "1:2:3:4"])
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
