"""How images are loaded, from numbers that were measured."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from nlseg.plan.dry_run import DryRun
from nlseg.plan.training_step import StepCost
from nlseg.start.facts import DataFacts
from nlseg.start.loading import Loading, Room, choose_loading, measure_room

SIZE = (96, 96)
COST = StepCost(4, SIZE, 0, 0, 0, 0.2, 1, 1)
STEP = DryRun("CPU", (1, 1), 4, SIZE, (1.0, 1.0), COST, 1.0, 0.2, COST, 1, 0.8, 6, 100)
"""Of four images: 0.8 s to load, 0.2 s in the network."""
ROOM = Room(frame_bytes=100, free_bytes=100, num_workers=3, seconds=2.0)


@pytest.mark.parametrize(
    ("num_train", "room", "data_s", "wanted"),
    [
        (10, ROOM, 0.2, (1, False)),  # the network does not wait
        (10, ROOM, 0.8, (1, True)),  # 10 images of 0.2 s are decoded in 2 s
        (11, ROOM, 0.8, (3, False)),  # 2.2 s are more than decoding may take
        (10, ROOM._replace(frame_bytes=101), 0.8, (3, False)),
        (10, Room(101, 100, 9, 2.0), 0.8, (4, False)),  # four processes are enough
        (10, Room(101, 100, 1, 2.0), 0.8, (1, False)),
    ],
)
def test_images_are_decoded_once_or_by_more_processes_where_the_network_waits(
    num_train: int, room: Room, data_s: float, wanted: tuple[int, bool]
) -> None:
    step = replace(STEP, data_s=data_s)
    found = choose_loading(Loading(), step, num_train, room)
    assert found[:2] == wanted
    told = f"loading a batch takes {data_s:.3f} s, a step of the network 0.200 s"
    assert found.reason.startswith(told)
    assert (found.reason == told) == (wanted == (1, False))
    # what was chosen is measured: nothing changes where the network does not wait any more
    again = choose_loading(found, replace(STEP, data_s=0.1), num_train, room)
    assert again[:2] == wanted
    assert again.reason.endswith(
        "then loading a batch takes 0.100 s, a step of the network 0.200 s"
    )


def test_decoded_images_may_be_loaded_by_more_processes() -> None:
    once = Loading(1, True, "once")
    found = choose_loading(once, replace(STEP, data_s=0.3), 10, ROOM)
    assert found[:2] == (2, True)
    assert found.shown() == "by 2 processes, decoded once"


def test_room_is_what_the_decoded_training_images_take(tmp_path: Path) -> None:
    data = DataFacts(3, 1, (((10, 20), 2), ((30, 40), 2)), (1.0,), (1.0,), 3, False, (), (), 255)
    cores, free = len(os.sched_getaffinity(0)), shutil.disk_usage(tmp_path).free
    room = measure_room(data, tmp_path, 60.0, on_gpu=False)
    assert room.num_workers == max(1, cores // 2)
    assert room.seconds == pytest.approx(6 * cores)  # a tenth, with all cores
    assert room.free_bytes < 0.6 * free
    assert measure_room(data, tmp_path, 60.0, on_gpu=True).num_workers == max(1, cores - 1)
    assert room.frame_bytes == 4 * (200 + 1200) * 2 * 3 // 4
    assert room.free_bytes > room.frame_bytes
    assert measure_room(replace(data, deep=True), tmp_path, 60.0, on_gpu=True).free_bytes == 0
