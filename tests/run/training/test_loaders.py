import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mmengine.dataset
import pytest
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from nlseg.datasets.stream import DefaultSampler, InfiniteSampler
from nlseg.errors import DataError
from nlseg.run.loaders import (
    BatchStream,
    WorkerDiedError,
    clean_loader_config,
    every_batch,
    iterations_per_epoch,
    log_bad_samples,
    original_message,
    prepare_worker,
    shut_down,
    why_they_died,
)
from nlseg.structures import SampleIndex
from tests.cases import each_case

pytestmark = pytest.mark.usefixtures("watchful_loaders")


class Numbers:
    """Items are their own numbers; item ``deadly`` kills the worker, once or always."""

    def __init__(self, size: int = 10, deadly: int = -1, mark: Path | None = None) -> None:
        self.size, self.deadly, self.mark = size, deadly, mark

    def set_seed(self, seed: int) -> None: ...

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> int:
        number = index.number if isinstance(index, SampleIndex) else index
        if number == self.deadly and (self.mark is None or not self.mark.exists()):
            if self.mark is not None:
                self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 99:
            raise DataError("file a.png: is broken: line: two")
        return number


def infinite(dataset: Numbers, workers: int = 0, **options: Any) -> DataLoader:
    sampler = InfiniteSampler(dataset, shuffle=False, seed=0)
    options = {"persistent_workers": workers > 0, "worker_init_fn": prepare_worker, **options}
    return DataLoader(dataset, batch_size=2, sampler=sampler, num_workers=workers, **options)


def take(stream: BatchStream, count: int) -> list[list[int]]:
    return [next(stream).tolist() for _ in range(count)]


def test_stream_starts_at_any_iteration() -> None:
    stream = BatchStream(infinite(Numbers()), 3, pytest.fail)
    assert take(stream, 2) == [[6, 7], [8, 9]]
    shifted = BatchStream(infinite(Numbers()), 3, pytest.fail, first_sample=1)
    assert take(shifted, 2) == [[7, 8], [9, 10]]


def test_finite_loader_goes_on_into_the_next_epoch() -> None:
    dataset = Numbers(5)
    loader = DataLoader(
        dataset, batch_size=2, sampler=DefaultSampler(dataset, shuffle=True, seed=0)
    )
    whole = [sorted(batch) for batch in take(BatchStream(loader, 0, pytest.fail), 6)]
    assert [len(batch) for batch in whole] == [2, 2, 1, 2, 2, 1]
    for start in range(6):
        rest = take(BatchStream(loader, start, pytest.fail), 6 - start)
        assert [sorted(batch) for batch in rest] == whole[start:], start


@pytest.mark.parametrize("workers", [0, 2])
def test_foreign_samplers_are_skipped_without_loading(workers: int) -> None:
    class Recording(Numbers):
        def __getitem__(self, index: Any) -> int:
            assert index not in (0, 1, 2, 3), "a past sample was loaded"
            return int(index)

    dataset = Recording(100)
    sampler = mmengine.dataset.InfiniteSampler(dataset, shuffle=False)
    loader = DataLoader(dataset, batch_size=2, sampler=sampler, num_workers=workers)
    assert take(BatchStream(loader, 2, pytest.fail), 2) == [[4, 5], [6, 7]]
    loader = DataLoader(dataset, batch_size=2, num_workers=workers)
    stream = BatchStream(loader, 2, pytest.fail)
    assert take(stream, 3) == [[4, 5], [6, 7], [8, 9]]
    shut_down(loader)


def test_killed_worker_is_replaced_and_no_sample_is_lost(tmp_path: Path) -> None:
    warnings: list[str] = []
    loader = infinite(Numbers(100, deadly=7, mark=tmp_path / "dead"), workers=2)
    stream = BatchStream(loader, 0, warnings.append)
    assert take(stream, 6) == [[n, n + 1] for n in range(0, 12, 2)]
    assert len(warnings) == 1
    assert "workers are started again at batch" in warnings[0]
    shut_down(loader)


def walked(dataset: Numbers, **options: Any) -> tuple[list[list[int]], list[str]]:
    """Walk over a loader as a validation does; return the batches and what was warned of."""
    warnings: list[str] = []
    sampler = DefaultSampler(dataset, shuffle=False)
    settings: dict[str, Any] = {"sampler": sampler, "worker_init_fn": prepare_worker, **options}
    loader = DataLoader(dataset, batch_size=2, **settings)
    try:
        return [batch.tolist() for batch in every_batch(loader, warnings.append)], warnings
    finally:
        shut_down(loader)


@pytest.mark.parametrize("persistent", [True, False])
def test_worker_of_a_validation_is_replaced_and_each_image_comes_once(
    tmp_path: Path, persistent: bool
) -> None:
    dataset = Numbers(11, deadly=9, mark=tmp_path / "dead")
    # with so little loaded ahead, three batches have come before the worker dies
    options: dict[str, Any] = {"prefetch_factor": 1, "persistent_workers": persistent}
    batches, warnings = walked(dataset, num_workers=2, **options)
    assert batches == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10]]
    (warning,) = warnings
    assert "(SIGKILL); workers are started again at batch" in warning
    assert "; often the machine's memory" in warning


def test_validation_whose_workers_always_die_ends_with_the_cause() -> None:
    with pytest.raises(WorkerDiedError, match=r"died 4 times .*SIGKILL.*lower num_workers"):
        walked(Numbers(11, deadly=5), num_workers=1)


def test_bad_image_of_a_validation_is_no_death() -> None:
    with pytest.raises(DataError, match=r"file a\.png: is broken: line: two") as caught:
        walked(Numbers(100), num_workers=1)
    assert "Caught" not in str(caught.value)


def test_order_that_is_drawn_anew_is_not_walked_again(tmp_path: Path) -> None:
    # one batch only, so that none is being handed over when the worker dies
    dataset = Numbers(2, deadly=1, mark=tmp_path / "dead")
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        walked(dataset, num_workers=1, sampler=None, shuffle=True)


@each_case(
    "text, signals, advice",
    [
        ("[Errno 24] Too many open files", [], "ulimit -n 65536"),
        ("received 0 items of ancdata", [], "ulimit -n 65536"),
        ("DataLoader worker (pid 3) is killed by signal: Bus error.", [], "--shm-size"),
        ("unable to write to file </torch_1_2_3>: No space left on device (28)", [], "--shm-size"),
        ("DataLoader worker (pid(s) 3) exited unexpectedly", [signal.SIGBUS], "--shm-size"),
        ("DataLoader worker (pid(s) 3) exited unexpectedly", [signal.SIGKILL], "memory"),
        ("[Errno 12] Cannot allocate memory", [], "lower num_workers"),
    ],
)
def test_each_cause_has_its_advice(text: str, signals: list[int], advice: str) -> None:
    workers = [SimpleNamespace(exitcode=-number) for number in signals]
    assert advice in why_they_died(RuntimeError(text), SimpleNamespace(_workers=workers))[1]
    assert why_they_died(RuntimeError("x"), SimpleNamespace(_workers=[])) == ("x", "")


class Broken:
    """Batches whose worker went while it handed one over."""

    def __init__(self, error: Exception, alive: bool) -> None:
        self.error = error
        self._workers = [SimpleNamespace(is_alive=lambda: alive, exitcode=-signal.SIGKILL)]

    def __next__(self) -> Any:
        raise self.error


def test_handler_that_a_loader_of_others_left_raises_no_more() -> None:
    before = signal.getsignal(signal.SIGCHLD)
    try:
        signal_handling._SIGCHLD_handler_set = False
        foreign = iter(DataLoader(Numbers(4), num_workers=1))
        left = signal.getsignal(signal.SIGCHLD)
        assert getattr(left, "__module__", "") == signal_handling.__name__
        del foreign
        loader = infinite(Numbers(), workers=1)
        next(BatchStream(loader, 0, pytest.fail))
        assert signal.getsignal(signal.SIGCHLD) is not left
        shut_down(loader)
    finally:
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), EOFError()])
def test_worker_that_dies_while_it_hands_over_a_batch_is_replaced(error: Exception) -> None:
    warnings: list[str] = []
    stream: Any = BatchStream(infinite(Numbers(100)), 0, warnings.append)
    stream._batches = Broken(error, alive=False)
    assert take(stream, 2) == [[0, 1], [2, 3]]
    assert "(SIGKILL); workers are started again at batch 0" in warnings[0]


@pytest.mark.parametrize("error", [FileNotFoundError(2, "no a.png"), RuntimeError("broken")])
def test_error_of_a_living_worker_is_raised(error: Exception) -> None:
    stream: Any = BatchStream(infinite(Numbers(100)), 0, pytest.fail)
    stream._batches = Broken(error, alive=True)
    with pytest.raises(type(error)):
        next(stream)


def test_worker_that_dies_every_time_ends_with_its_cause() -> None:
    loader = infinite(Numbers(100, deadly=3), workers=1)
    stream = BatchStream(loader, 1, lambda _: None)
    with pytest.raises(WorkerDiedError, match=r"died 4 times.*SIGKILL"):
        next(stream)
    shut_down(loader)


@pytest.mark.parametrize("workers", [0, 1])
def test_users_error_arrives_without_a_traceback(workers: int) -> None:
    loader = infinite(Numbers(200), workers=workers)
    stream = BatchStream(loader, 49, pytest.fail)
    with pytest.raises(DataError) as caught:
        next(stream)
    assert str(caught.value) == "file a.png: is broken: line: two"
    shut_down(loader)


def test_too_few_images_for_a_batch_are_refused() -> None:
    loader = DataLoader(Numbers(3), batch_size=4, drop_last=True)
    with pytest.raises(DataError, match="3 images make no whole batch of 4"):
        next(BatchStream(loader, 0, pytest.fail))


def test_settings_without_workers_are_dropped() -> None:
    cleaned = clean_loader_config(
        {"num_workers": 0, "persistent_workers": True, "prefetch_factor": 2}
    )
    assert not {"persistent_workers", "prefetch_factor"} & set(cleaned)
    kept = clean_loader_config({"num_workers": 1, "persistent_workers": True})
    assert kept["persistent_workers"]


def test_bad_samples_of_every_part_are_written_beside_the_run(tmp_path: Path) -> None:
    def part(log: str | None) -> SimpleNamespace:
        return SimpleNamespace(bad_samples=SimpleNamespace(log=log))

    own, other = part("own.jsonl"), part(None)
    joined = SimpleNamespace(dataset=SimpleNamespace(datasets=[own, other]))
    log_bad_samples(joined, tmp_path / "bad.jsonl")
    assert own.bad_samples.log == "own.jsonl"
    assert other.bad_samples.log == str(tmp_path / "bad.jsonl")


def test_epoch_length_of_an_infinite_loader() -> None:
    assert iterations_per_epoch(infinite(Numbers(5))) == 3
    assert iterations_per_epoch(DataLoader(Numbers(5), batch_size=2, drop_last=True)) == 2


def test_workers_error_text_is_unwrapped() -> None:
    text = "Caught DataError in DataLoader worker process 0.\nTraceback:\n  x\nDataError: a: b"
    assert original_message(DataError(text)) == "a: b"
