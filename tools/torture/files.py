"""Files made to run code, to fill the memory or to mislead."""

from tests.faults.hostile import refused
from torture.rows import Fault, Group

GROUP = Group(
    "hostile files",
    [Fault("hostile checkpoint or safetensors file", lambda setting: refused(setting.folder))],
)
