"""Time, peak memory and operations of one piece of work, done in several ways in turns."""

import ctypes
import gc
import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmark.machine import matrix_rate, synchronize
from benchmark.processes import Outcome, in_new_process
from nlseg.run.device import not_compiled


@dataclass
class Work:
    """Something to measure, with its weights and inputs ready.

    Args:
        run: Does it once.
        warm: Does the same with little data, so that what happens once has happened.
        precision: The type of most of its products: 'fp32', 'bf16' or 'fp16'.
        compiled: The network whose parts are compiled, where there is one. Operations are counted
            without, as nothing compiled runs while they are; it is warmed up at the timed size, and
            the row fails where no compiled code ran.
    """

    run: Callable[[], Any]
    warm: Callable[[], Any]
    precision: str = "fp32"
    compiled: nn.Module | None = None


Builder = Callable[[], Work]
"""Makes a ``Work``; picklable."""


@dataclass
class Result:
    """What was measured of one way to do something.

    Args:
        times_s: Seconds of each run.
        memory: Most bytes held beyond what was there before the run.
        flops: Floating point operations of a run; a multiply-add counts as two.
        precision: See ``Work``.
        rate: Operations a second of a large product in that precision, in the same process before
            or after, whichever is higher.
        failure: Why there is nothing, or not all.
    """

    times_s: list[float] = field(default_factory=list)
    memory: int | None = None
    flops: int | None = None
    precision: str = "fp32"
    rate: float | None = None
    failure: str | None = None

    @property
    def median_s(self) -> float | None:
        """The median time."""
        return statistics.median(self.times_s) if self.times_s else None

    @property
    def spread(self) -> float | None:
        """Half the distance from the shortest to the longest time, as a share of the median."""
        if not self.times_s:
            return None
        return (max(self.times_s) - min(self.times_s)) / 2 / statistics.median(self.times_s)

    @property
    def share(self) -> float | None:
        """The share of the hardware's matrix rate that a run reaches."""
        if not self.times_s or not self.flops or not self.rate:
            return None
        return self.flops / statistics.median(self.times_s) / self.rate


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Args:
        device: 'cpu' or 'cuda'.
        threads: Threads of a CPU; PyTorch's choice where None.
        rounds: Most times that every way is run.
        seconds: After so long no further round begins; two are always run.
        rate_side: Side of the matrices whose product measures the hardware's rate.
        long_s: Where every way takes longer than this, the run that counts operations is timed,
            too, as the first round.
        one_process: Measure everything in the process that asks, memory too, for which a GPU's
            allocator is asked: starting processes would take most of a short visit to a GPU.
    """

    device: str = "cpu"
    threads: int | None = None
    rounds: int = 7
    seconds: float = 60.0
    rate_side: int | None = None
    long_s: float = 10.0
    one_process: bool = False


def measure(ways: Mapping[str, Builder], plan: Plan) -> dict[str, Result]:
    """Measure several ways of doing the same.

    Time is taken in one process, in turns; memory in a process of its own for each way, unless the
    plan has one process for all.

    Args:
        ways: Name of a way -> what builds it.
        plan: How.
    """
    if plan.one_process:
        return time_in_turns(ways, plan)
    results = {name: _measure_memory(builder, plan) for name, builder in ways.items()}
    alive = {name: ways[name] for name, result in results.items() if result.failure is None}
    outcome = in_new_process(partial(time_in_turns, alive, plan), plan.device)
    timed: dict[str, Result] = outcome.value or {}
    for name in alive:
        if outcome.failure is not None:
            results[name].failure = outcome.failure
        else:
            timed[name].memory = results[name].memory
            results[name] = timed[name]
    return results


def _measure_memory(builder: Builder, plan: Plan) -> Result:
    outcome: Outcome = in_new_process(partial(peak_memory, builder, plan), plan.device)
    return Result(memory=outcome.value, failure=outcome.failure)


def peak_memory(builder: Builder, plan: Plan) -> int:
    """Return the most bytes that one run holds beyond weights, inputs and what was there.

    On CUDA the allocator is asked; else the resident set, which must be this process's own.
    """
    prepare(plan)
    work = builder()
    work.warm()
    synchronize(plan.device)
    give_memory_back()
    if plan.device == "cuda":
        return _peak_of_allocator(work)
    before = reset_peak()
    work.run()
    return max(read_peak() - before, 0)


def _peak_of_allocator(work: Work) -> int:
    """Return the most bytes that a run takes from a GPU's allocator."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work.run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def time_in_turns(ways: Mapping[str, Builder], plan: Plan) -> dict[str, Result]:
    """Run all ways once to count operations, then in turns, each round in the other order."""
    prepare(plan)
    works, failed = _built(ways)
    before = _rates(works, plan)
    results = {}
    deadline = time.perf_counter() + plan.seconds
    for name, work in works.items():
        results[name] = _counted(work, plan)
    failed |= {name: result for name, result in results.items() if result.failure is not None}
    works = {name: work for name, work in works.items() if name not in failed}
    results = {name: results[name] for name in works}
    first = 1
    if any(result.times_s[0] < plan.long_s for result in results.values()):
        first, deadline = 0, time.perf_counter() + plan.seconds
        for result in results.values():
            result.times_s.clear()
    failed |= _take_turns(works, results, range(first, plan.rounds), deadline, plan.device)
    after = _rates(works, plan)
    for result in results.values():
        result.rate = max(before[result.precision], after[result.precision])
    return {**results, **failed}


def _take_turns(
    works: Mapping[str, Work], results: Mapping[str, Result], turns: range, deadline: float,
    device: str,
) -> dict[str, Result]:  # fmt: skip
    """Time each way once a turn; return those that failed, which do not end the others."""
    failed: dict[str, Result] = {}
    for turn in turns:
        if turn >= 2 and time.perf_counter() > deadline:
            break
        names = [name for name in works if name not in failed]
        for name in names if turn % 2 == 0 else reversed(names):
            try:
                results[name].times_s.append(_time(works[name].run, device))
            except Exception as error:  # whatever it is: out of memory, a compiler's own
                failed[name] = _failure(error, results[name].precision)
    return failed


def _built(ways: Mapping[str, Builder]) -> tuple[dict[str, Work], dict[str, Result]]:
    """Build what can be built, and say why the rest cannot."""
    works, failed = {}, {}
    for name, builder in ways.items():
        try:
            works[name] = builder()
        except Exception as error:
            failed[name] = _failure(error)
    return works, failed


def _failure(error: Exception, precision: str = Result.precision) -> Result:
    lines = str(error).splitlines() or ["no message"]
    text = f"{type(error).__name__}: {lines[0]}"[:200]
    return Result(precision=precision, failure=text)


def _counted(work: Work, plan: Plan) -> Result:
    """Warm up, count the operations of a run and time it; a failure is the way's own."""
    try:
        work.warm()
        uncompiled = nullcontext() if work.compiled is None else not_compiled(work.compiled)
        with uncompiled, FlopCounterMode(display=False) as counter:
            seconds = _time(work.run, plan.device)
        if work.compiled is not None:
            seconds = _time(partial(_run_compiled, work), plan.device)
        by_allocator = plan.one_process and plan.device == "cuda"
        memory = _peak_of_allocator(work) if by_allocator else None
    except Exception as error:
        return _failure(error, work.precision)
    flops = counter.get_total_flops()
    return Result([seconds], memory, flops, precision=work.precision)


def _run_compiled(work: Work) -> Any:
    """Run once under the profiler, which sees whether compiled code ran.

    Raises:
        RuntimeError: None did.
    """
    with torch.profiler.profile() as profiler:
        result = work.run()
    if not any("Torch-Compiled Region" in event.name for event in profiler.events()):
        raise RuntimeError("no compiled code ran")
    return result


def _rates(works: Mapping[str, Work], plan: Plan) -> dict[str, float]:
    """Measure the matrix rate of every precision that is used."""
    precisions = sorted({work.precision for work in works.values()})
    return {p: matrix_rate(plan.device, p, plan.rate_side) for p in precisions}


def _time(run: Callable[[], Any], device: str) -> float:
    synchronize(device)
    start = time.perf_counter()
    kept = run()
    synchronize(device)
    seconds = time.perf_counter() - start
    del kept
    return seconds


def prepare(plan: Plan) -> None:
    """Set the number of threads and the seed."""
    if plan.threads is not None:
        torch.set_num_threads(plan.threads)
    torch.manual_seed(0)


def give_memory_back() -> None:
    """Return freed memory to the system, so that the next peak does not hide in it."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def reset_peak() -> int:
    """Forget the process's peak so far, where the system can; return its memory in bytes.

    Where it cannot, the peak of a fresh process is mostly its present memory.
    """
    with suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def read_peak() -> int:
    """Return the most memory that the process has held since the reset, in bytes."""
    if os.path.exists("/proc/self/status"):
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith("VmHWM"):
                    return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def median_ratio(result: Result, reference: Result) -> float | None:
    """Return the median over the rounds of this way's time by the reference's in that round."""
    pairs = zip(result.times_s, reference.times_s, strict=False)
    ratios: Sequence[float] = [ours / theirs for ours, theirs in pairs]
    return statistics.median(ratios) if ratios else None
