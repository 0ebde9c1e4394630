import json
from pathlib import Path

import pytest
import torch

from tests.run.prepared import run_ranks
from tests.run.rank_script import INTERRUPTED
from tests.run.runs import assert_same, curves, final, interrupt
from tests.run.toy import toy_config

STOPPED_AFTER = {
    "bf16": 7,
    "amid an accumulation": 6,  # asked in iteration 5, the first half of a step
    "amid an epoch": 3,
    "amid an epoch and an accumulation": 10,
    "in validation": 8,
    "all": 8,
}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("two")
    one, log = folder / "begun by one", folder / "samples.txt"
    interrupt(toy_config(one, **{"train_dataloader.dataset.log": str(log)}), 5)
    run_ranks(2, "-m", "tests.run.rank_script", "resuming", str(folder), str(one), str(log))
    return folder


@pytest.mark.parametrize("name", INTERRUPTED)
def test_interrupted_run_of_two_ends_bitwise_the_same(runs: Path, name: str) -> None:
    whole, parts = runs / name / "whole", runs / name / "parts"
    checkpoints = {path.name for path in whole.glob("*.pth")}
    assert checkpoints & {"iter_12.pth", "epoch_2.pth"}
    assert checkpoints <= {path.name for path in parts.glob("*.pth")}
    for file in checkpoints:
        assert_same(final(whole, file), final(parts, file), file)
    assert curves(whole) == curves(parts)


@pytest.mark.parametrize("name", INTERRUPTED)
def test_both_stop_after_the_same_iteration_when_one_is_asked(runs: Path, name: str) -> None:
    lines = (runs / name / "parts/scalars.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert [e["resumed at"] for e in entries if "resumed at" in e] == [STOPPED_AFTER[name]]


def test_other_number_of_processes_sees_every_sample_once(runs: Path) -> None:
    numbers = [int(line.split()[0]) for line in (runs / "samples.txt").read_text().splitlines()]
    assert sorted(numbers) == list(range(12 * 4))
    assert final(runs / "begun by one")["meta"]["settings"]["processes"] == 2
