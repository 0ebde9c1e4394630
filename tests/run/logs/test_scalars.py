from pathlib import Path

import pytest
import torch

from nlseg.run.logs import (
    ScalarLog,
    WindowBuffer,
    make_message_hub,
    read_scalars,
    recent_values,
    restore_values,
)


def make(folder: Path, warnings: list[str] | None = None) -> ScalarLog:
    return ScalarLog(folder, (warnings or []).append, tensorboard=False)


def test_curve_is_continuous_over_a_restart_and_drops_the_rest(tmp_path: Path) -> None:
    log = make(tmp_path)
    log.resume(0)
    for step in (2, 4, 6):
        log.write("train", step, {"loss": float(step)})
    log.write("val", 4, {"mIoU": 1.0})
    log = make(tmp_path)
    log.resume(4)
    log.write("train", 6, {"loss": 60.0})
    lines = read_scalars(tmp_path / "scalars.jsonl")
    assert [(x["kind"], x["step"], x.get("loss")) for x in lines] == [
        ("train", 2, 2.0), ("train", 4, 4.0), ("val", 4, None), ("train", 6, 60.0),
    ]  # fmt: skip


def test_line_cut_by_a_kill_is_left_out_and_harms_no_other(tmp_path: Path) -> None:
    log = make(tmp_path)
    log.write("train", 1, {"loss": 1.0})
    with open(tmp_path / "scalars.jsonl", "a") as file:
        file.write('{"kind": "train", "st')
    log.write("train", 2, {"loss": 2.0})
    assert [x["step"] for x in read_scalars(tmp_path / "scalars.jsonl")] == [1, 2]


def test_later_line_of_a_step_replaces_the_earlier(tmp_path: Path) -> None:
    log = make(tmp_path)
    log.write("val", 4, {"mIoU": 1.0})
    log.write("val", 4, {"mIoU": 2.0})
    assert [x["mIoU"] for x in read_scalars(tmp_path / "scalars.jsonl")] == [2.0]


def test_numbers_that_json_does_not_know_are_left_out(tmp_path: Path) -> None:
    values = {"nan": float("nan"), "t": torch.tensor(0.5), "text": "x", "flag": True, "n": 3}
    make(tmp_path).write("train", 1, values)
    (line,) = read_scalars(tmp_path / "scalars.jsonl")
    assert line == {"kind": "train", "step": 1, "t": 0.5, "n": 3}


def test_unwritable_folder_costs_one_warning(tmp_path: Path) -> None:
    warnings: list[str] = []
    log = ScalarLog(tmp_path / "nowhere", warnings.append, tensorboard=False)
    for step in range(3):
        log.write("train", step, {"loss": 1.0})
    assert len(warnings) == 1
    assert "training goes on without" in warnings[0]


def test_tensorboard_is_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = ScalarLog(tmp_path, pytest.fail)
    log.write("train", 3, {"loss": 0.25})
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(3, 0.25)]


def test_broken_tensorboard_costs_one_warning(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file where a folder should be")
    warnings: list[str] = []
    log = ScalarLog(tmp_path, warnings.append)
    log.write("train", 1, {"loss": 1.0})
    log.write("train", 2, {"loss": 1.0})
    assert len(warnings) == 1
    assert [x["step"] for x in read_scalars(tmp_path / "scalars.jsonl")] == [1, 2]


def test_window_forgets_and_means_are_of_the_last_values() -> None:
    buffer = WindowBuffer(max_length=4)
    for value in range(10):
        buffer.update(torch.tensor(float(value)) if value % 2 else float(value))
    assert buffer.data[0].tolist() == [6, 7, 8, 9]
    assert buffer.mean(2) == 8.5
    assert (buffer.min(), buffer.max(), buffer.current()) == (6, 9, 9)
    assert buffer.statistics("mean", 4) == 7.5


def test_values_stay_on_the_device_until_somebody_asks() -> None:
    class Watched(torch.Tensor):
        reads = 0

        def item(self) -> float:
            Watched.reads += 1
            return super().item()

        def tolist(self) -> list:
            Watched.reads += 1
            return super().tolist()

    hub = make_message_hub("watched")
    for _ in range(5):
        hub.update_scalar("train/loss", torch.ones(()).as_subclass(Watched))
    assert Watched.reads == 0
    assert hub.get_scalar("train/loss").mean(3) == 1.0
    assert Watched.reads == 1  # one for all


def test_loss_keeps_no_graph_alive() -> None:
    hub = make_message_hub("graph")
    loss = torch.ones((), requires_grad=True) * 2
    hub.update_scalar("train/loss", loss)
    assert not hub.get_scalar("train/loss")._values[0].requires_grad


def test_hub_is_the_one_that_everybody_asks() -> None:
    from mmengine.logging import MessageHub

    hub = make_message_hub("current")
    assert MessageHub.get_current_instance() is hub


def test_recent_values_go_over_a_restart() -> None:
    hub = make_message_hub("before")
    for value in (1.0, 2.0, 3.0):
        hub.update_scalar("train/loss", value)
    hub.update_scalar("val/mIoU", 5.0)
    kept = recent_values(hub, 2)
    assert kept == {"train/loss": [2.0, 3.0]}
    other = make_message_hub("after")
    restore_values(other, kept)
    assert other.get_scalar("train/loss").mean(10) == 2.5
