"""Saves that fail, with real disks: nothing is lost, and nothing is trained in vain."""

from pathlib import Path

import pytest
import torch

from nlseg.run import places
from tests.faults import saving
from tests.faults.kills import undisturbed

pytestmark = pytest.mark.slow
HARM_AT = saving.HARM_AT


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return undisturbed(tmp_path_factory.mktemp("reference"))


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "PAUSES_S", (0.01, 0.02))


@pytest.fixture(scope="module")
def mounts() -> None:
    if not saving.can_mount():
        pytest.skip("mounting disks needs root")


def causes(output: str) -> list[str]:
    """Return the lines that tell of a failure."""
    return [line for line in output.splitlines() if "No space left on device" in line]


@pytest.mark.usefixtures("mounts")
@pytest.mark.parametrize(
    ("plan", "alike"),
    [
        ([(HARM_AT, "fill")], False),
        ([(HARM_AT, "fill"), (17, "free")], True),
    ],
    ids=["to the end", "and then freed"],
)
def test_full_disk_loses_nothing_and_tells_each_cause_once(
    tmp_path: Path, reference: Path, plan: list[tuple[int, str]], alike: bool
) -> None:
    outcome, output = saving.harm("full", tmp_path, reference, plan, alike=alike)
    assert outcome.lost == 0, outcome.notes
    assert "--resume looks there, too" in output
    assert 2 <= len(causes(output)) <= 5, causes(output)  # checkpoint, curves, log, back end
    assert ("can be written again" in output) == alike


@pytest.mark.usefixtures("mounts")
def test_full_disk_with_saves_in_the_background(tmp_path: Path, reference: Path) -> None:
    background = {"default_hooks.checkpoint.background": True}
    plan = [(HARM_AT, "fill"), (17, "free")]
    outcome, _ = saving.harm("full", tmp_path, reference, plan, alike=True, **background)
    assert outcome.lost == 0, outcome.notes


@pytest.mark.usefixtures("mounts")
@pytest.mark.parametrize(
    ("name", "said"),
    [("remove", "was removed"), ("rename", "was renamed to"), ("make_read_only", "Read-only")],
)
def test_folder_that_is_taken_away_loses_nothing(
    tmp_path: Path, reference: Path, name: str, said: str
) -> None:
    outcome, output = saving.harm(name, tmp_path, reference, [(HARM_AT, name)])
    assert outcome.lost == 0, outcome.notes
    assert said in output


@pytest.mark.usefixtures("mounts")
def test_run_that_stopped_on_a_full_disk_is_resumed_from_the_fallback(
    tmp_path: Path, reference: Path
) -> None:
    outcome, _ = saving.stop_and_go_on(tmp_path, reference)
    assert outcome.lost == 0, outcome.notes


@pytest.mark.usefixtures("mounts")
@pytest.mark.parametrize(
    ("size", "at", "said"),
    [
        (8 << 20, "limit_files", "failed before the first iteration: File too large"),
        (8 << 20, "fill", "run: cannot be written to: No space left on device"),
        (900_000, None, "1 kept + 1 best + 1 new need 0.9 MiB"),
    ],
    ids=["ulimit", "full", "room for two of three"],
)
def test_start_where_nothing_can_be_saved_is_refused(
    tmp_path: Path, size: int, at: str | None, said: str
) -> None:
    outcome, output = saving.refused_at_start("start", tmp_path, size, at)
    assert outcome.lost == 0, outcome.notes
    assert said in output


def test_run_that_can_save_nowhere_stops_early(tmp_path: Path, reference: Path) -> None:
    outcome, output = saving.nowhere_to_write(tmp_path, reference)
    assert outcome.lost == 0, outcome.notes
    last = output.splitlines()[-1]
    assert last.startswith("error: no checkpoint could be written for 0.0 minutes: "), last
