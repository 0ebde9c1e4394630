"""Loaders whose workers die or run short of something: replaced, or stopped with the cause."""

from pathlib import Path

import pytest
import torch

from tests.faults import saving, workers
from tests.faults.kills import undisturbed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return undisturbed(tmp_path_factory.mktemp("reference"))


@pytest.mark.usefixtures("watchful_loaders")
def test_worker_of_a_validation_that_is_killed_costs_nothing(
    tmp_path: Path, reference: Path
) -> None:
    outcome = workers.die(tmp_path, reference, "val")
    assert outcome.lost == 0, outcome.notes


@pytest.mark.usefixtures("watchful_loaders")
@pytest.mark.parametrize("part", ["images", "labels"])
def test_small_shared_memory_ends_the_run_with_the_cause(
    tmp_path: Path, reference: Path, part: str
) -> None:
    if not saving.can_mount():
        pytest.skip("mounting a small /dev/shm needs root")
    outcome = workers.run_short(
        tmp_path, reference, workers.shrink_shared_memory, "--shm-size",
        **workers.wide_samples(part),
    )  # fmt: skip
    assert outcome.lost == 0, outcome.notes


def test_too_many_open_files_end_the_run_with_the_cause(tmp_path: Path, reference: Path) -> None:
    outcome = workers.run_short(tmp_path, reference, workers.allow_few_files, "ulimit -n")
    assert outcome.lost == 0, outcome.notes
    assert (tmp_path / "child.log").stat().st_size < 100_000  # nothing is said without an end


@pytest.mark.usefixtures("watchful_loaders")
def test_full_memory_ends_the_run_with_the_cause(tmp_path: Path, reference: Path) -> None:
    outcome = workers.run_short(
        tmp_path, reference, workers.allow_little_memory, "lower num_workers",
        **workers.hungry_samples(),
    )  # fmt: skip
    assert outcome.lost == 0, outcome.notes
