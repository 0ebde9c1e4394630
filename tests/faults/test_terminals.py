"""Jobs without a terminal: all standard streams closed, or a terminal that goes away."""

from pathlib import Path

import pytest
import torch

from tests.faults import terminals

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return terminals.undisturbed(tmp_path_factory.mktemp("reference"))


def test_run_with_all_standard_streams_closed_works_and_logs_to_its_file(
    tmp_path: Path, reference: Path
) -> None:
    outcome = terminals.close_streams(tmp_path, reference)
    assert outcome.lost == 0, outcome.notes


def test_run_whose_terminal_goes_away_saves_and_leaves_with_143(
    tmp_path: Path, reference: Path
) -> None:
    outcome = terminals.lose_terminal(tmp_path, reference)
    assert outcome.lost == 0, outcome.notes
