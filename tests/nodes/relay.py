"""Pass Ethernet frames on between namespaces, each after a delay.

    python relay.py SECONDS NAMESPACE NAMESPACE ...

Each namespace gets a device eth0 whose other end is this process. Prints "ready" when they are
there, and ends with its parent, or after ten minutes.
"""

import contextlib
import ctypes
import fcntl
import heapq
import os
import select
import signal
import struct
import sys
import time
from itertools import count

_NEW_NET = 0x40000000
_SET_INTERFACE, _TAP_WITHOUT_HEADER = 0x400454CA, 0x1002
_DIE_WITH_PARENT = 1
_LIFE_S = 600
_LIBC = ctypes.CDLL(None, use_errno=True)


def plug_in(namespace: str) -> int:
    """Make eth0 in a namespace and return the file whose bytes are its frames."""
    with open(f"/run/netns/{namespace}") as file:
        if _LIBC.setns(file.fileno(), _NEW_NET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _SET_INTERFACE, struct.pack("16sH22x", b"eth0", _TAP_WITHOUT_HEADER))
    return device


def main() -> None:
    delay_s, *namespaces = sys.argv[1:]
    _LIBC.prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    devices = [plug_in(namespace) for namespace in namespaces]
    print("ready", flush=True)
    end = time.monotonic() + _LIFE_S
    order = count()
    waiting: list[tuple[float, int, int, bytes]] = []
    while time.monotonic() < end:
        pause = max(waiting[0][0] - time.monotonic(), 0) if waiting else 1.0
        for device in select.select(devices, [], [], pause)[0]:
            frame = os.read(device, 65536)
            due = time.monotonic() + float(delay_s)
            heapq.heappush(waiting, (due, next(order), device, frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, source, frame = heapq.heappop(waiting)
            for device in devices:
                if device != source:
                    with contextlib.suppress(OSError):  # lost, as on a cable: eth0 is down or full
                        os.write(device, frame)


if __name__ == "__main__":
    main()
