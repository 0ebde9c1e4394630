"""Files made to run code, to fill the memory or to mislead, at every door."""

from functools import partial

from tests.faults import doors
from tests.faults.forked import Outcome
from tests.faults.hostile import refused
from torture.rows import Fault, Group, Setting


def open_door(door: str, setting: Setting) -> Outcome:
    """Give all weight files to one door."""
    return doors.refuse_weights(setting.folder, door)


GROUP = Group(
    "hostile files",
    [
        Fault("hostile checkpoint or safetensors file", lambda setting: refused(setting.folder)),
        *(
            Fault(f"the same by {door}", partial(open_door, door), short=door == "init_model")
            for door in doors.DOORS
        ),
        Fault("config", lambda setting: doors.refuse_configs(setting.folder)),
        Fault("image or label map", lambda setting: doors.replace_images(setting.folder)),
        Fault(
            "bit of the frame cache flipped",
            lambda setting: doors.damage_frames(setting.folder, setting.dice),
        ),
    ],
)
