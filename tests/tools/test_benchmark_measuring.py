"""The measuring itself: known work takes what it is known to take."""

import os
import signal
import sys
import time
from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmark import growth
from benchmark.machine import describe_machine, matrix_rate
from benchmark.measure import Plan, Result, Work, measure, median_ratio, peak_memory, time_in_turns
from benchmark.processes import in_new_process
from tests.run import prepared
from tests.run.real_processes import ROOT

MIB = 2**20
PLAN = Plan(threads=1, rounds=3, seconds=5.0, rate_side=64)
ASKING_WHAT_IS_IMPORTED = """
import sys
from functools import partial
sys.path.insert(1, sys.argv[1])
from benchmark.processes import in_new_process
imported = partial(eval, "'benchmark.networks' in __import__('sys').modules")
print(in_new_process(imported, "cpu").value)
"""
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux' /proc")


def filling(mib: int) -> Work:
    """Fill so much memory and let it go."""
    return Work(partial(torch.ones, mib * MIB // 4), partial(torch.ones, 4))


def waiting(seconds: float) -> Work:
    return Work(partial(time.sleep, seconds), lambda: None)


def multiplying(side: int) -> Work:
    a = torch.ones(side, side)
    return Work(partial(torch.mm, a, a), partial(torch.mm, a[:4, :4], a[:4, :4]))


def failing() -> Work:
    raise RuntimeError("no kernel for this\nmore lines")


def dying() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def asking_for_too_much() -> None:
    torch.empty(2**50)


@linux
@pytest.mark.parametrize("mib", [64, 192])
def test_peak_memory_is_what_the_work_fills(mib: int) -> None:
    outcome = in_new_process(partial(peak_memory, partial(filling, mib), PLAN), "cpu")
    assert outcome.failure is None
    # the kernel counts pages in batches, so a little may be missing
    assert (mib - 1) * MIB <= outcome.value <= (mib + 4) * MIB


@pytest.mark.slow
def test_several_ways_are_measured_beside_each_other() -> None:
    ways = {
        "short": partial(waiting, 0.02), "long": partial(waiting, 0.06),
        "product": partial(multiplying, 32), "broken": failing,
    }  # fmt: skip
    results = measure(ways, PLAN)
    assert results["broken"].failure == "RuntimeError: no kernel for this"
    assert results["broken"].times_s == []
    assert results["product"].flops == 2 * 32**3
    assert [len(results[name].times_s) for name in ("short", "long", "product")] == [3, 3, 3]
    ratio = median_ratio(results["short"], results["long"])
    assert ratio is not None
    assert 0.2 < ratio < 0.9


@pytest.mark.parametrize(("long_s", "runs"), [(0.0, 2), (60.0, 3)])
def test_long_work_is_timed_while_its_operations_are_counted(long_s: float, runs: int) -> None:
    started: list[float] = []
    work = Work(lambda: started.append(time.perf_counter()), lambda: None)
    plan = Plan(threads=1, rounds=2, rate_side=64, long_s=long_s)
    results = time_in_turns({"one": lambda: work}, plan)
    assert len(results["one"].times_s) == 2
    assert len(started) == runs


def test_a_process_that_dies_is_a_result_too() -> None:
    assert in_new_process(dying, "cpu").failure == "killed (SIGKILL), out of memory"
    assert in_new_process(partial(int, "7"), "cpu").value == 7


def test_a_process_begins_with_what_is_measured_imported() -> None:
    # In an interpreter of its own: a process has one fork server, which other tests start too.
    outcome = prepared.run("-c", ASKING_WHAT_IS_IMPORTED, str(ROOT / "tools"))
    assert outcome.stdout == "True\n", outcome.stderr


def test_more_memory_than_there_is_is_refused_not_killed_for() -> None:
    assert in_new_process(asking_for_too_much, "cpu").failure == "out of memory"


def test_figures_by_hand() -> None:
    result = Result(times_s=[1.0, 2.0, 4.0], flops=8, rate=16.0)
    assert result.median_s == 2.0
    assert result.spread == 0.75  # (4 - 1) / 2 / 2
    assert result.share == 0.25  # 8 / 2 s of 16 a second
    reference = Result(times_s=[2.0, 2.0, 2.0])
    assert median_ratio(result, reference) == 1.0  # of 0.5, 1 and 2
    assert median_ratio(Result(), reference) is None
    assert Result().median_s is None


def test_the_exponent_of_a_power_law() -> None:
    sizes = [1.0, 2.0, 4.0, 8.0]
    assert growth.exponent(sizes, [3 * n**1.5 for n in sizes]) == pytest.approx(1.5)
    assert growth.exponent(sizes, [7.0] * 4) == pytest.approx(0)


def test_two_growths_are_compared_at_the_larger_ones_largest_size() -> None:
    square = growth.fit([(n, n**2 * 1e-3, n**2 * 10) for n in (8, 16, 32, 64)])
    line = growth.fit([(n, n * 1e-2, n * 5) for n in (32, 64, 128, 256)])
    assert square["time_exponent"] == pytest.approx(2)
    assert line["memory_exponent"] == pytest.approx(1)
    found = growth.compare(square, line)
    assert found["positions"] == 256
    assert found["extrapolated"] is True
    assert found["time_ratio"] == pytest.approx(2.56 / 65.536)  # 256 / 100, 256**2 / 1000
    assert found["memory_ratio"] == pytest.approx(1280 / 655360)
    assert growth.compare(line, line)["extrapolated"] is False
    assert growth.compare(growth.fit([]), line) == {}


def test_the_rate_and_the_machine_are_described() -> None:
    torch.set_num_threads(1)
    assert matrix_rate("cpu", "fp32", 128) > 1e6
    facts = describe_machine("cpu")
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == 1


class Doubled(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ x


def compiled_work(compiles: bool) -> Work:
    model = Doubled()
    if compiles:
        model.compile(backend="eager")
    x = torch.randn(64, 64)
    return Work(lambda: model(x), lambda: model(x), compiled=model)


def failing_work() -> Work:
    def fail() -> None:
        raise RuntimeError("no such kernel")

    return Work(fail, fail)


def test_one_process_measures_what_can_be_built() -> None:
    ways = {"product": partial(multiplying, 32), "broken": failing}
    found = measure(ways, replace(PLAN, one_process=True))
    assert found["broken"].failure == "RuntimeError: no kernel for this"
    assert found["product"].failure is None
    assert len(found["product"].times_s) == 3
    assert found["product"].memory is None  # no GPU whose allocator could be asked


class StrangeError(Exception):
    """Neither a RuntimeError, nor in the first run."""


def failing_later() -> Work:
    runs = iter(range(100))

    def fail() -> None:
        if next(runs) == 2:
            raise StrangeError("at the third run")

    return Work(fail, lambda: None)


def unbuildable() -> Work:
    raise AssertionError


def test_a_way_that_fails_later_or_strangely_leaves_the_others_their_times() -> None:
    ways = {"later": failing_later, "product": partial(multiplying, 32), "strange": unbuildable}
    found = measure(ways, replace(PLAN, one_process=True))
    assert found["later"].failure == "StrangeError: at the third run"
    assert found["strange"].failure == "AssertionError: no message"
    assert found["product"].failure is None
    assert len(found["product"].times_s) == 3


def test_compiled_code_is_counted_and_must_run_and_a_failure_stays_alone() -> None:
    ways = {
        "compiled": partial(compiled_work, True),
        "not compiled": partial(compiled_work, False),
        "failing": failing_work,
        "plain": lambda: Work(lambda: None, lambda: None),
    }
    found = time_in_turns(ways, Plan(rounds=2, seconds=0.1, rate_side=64))
    assert found["compiled"].failure is None
    assert found["compiled"].flops == 2 * 64**3
    assert found["not compiled"].failure == "RuntimeError: no compiled code ran"
    assert found["failing"].failure == "RuntimeError: no such kernel"
    assert len(found["plain"].times_s) == len(found["compiled"].times_s) == 2
