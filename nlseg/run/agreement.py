"""What all processes decide together: one small vector, reduced once an iteration.

On CUDA the vector stays on the device, where a guarded optimizer step can use it, and the host
reads it two iterations later, when its copy has long arrived: no iteration waits for the device.
On the CPU it is read at once. Every process reads the entry of the same iteration, so all of them
act in the same one.
"""

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from nlseg.run import distributed

NON_FINITE, STOP = 0, 1
_LAG_ON_CUDA = 2


@dataclass(frozen=True)
class Verdict:
    """What was agreed on in one iteration.

    Args:
        iteration: Which one, from 0.
        non_finite: A loss or gradient was not finite on some process.
        stop: Some process was asked to stop.
    """

    iteration: int
    non_finite: bool
    stop: bool


class Agreement:
    """Collects this process's flags, reduces them with all others', and reads what was agreed.

    Args:
        device: Where the vector lives.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.lag = _LAG_ON_CUDA if device.type == "cuda" else 0
        self.stop_asked = False
        self.reduced: Tensor | None = None
        self._pending: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()

    def ask_to_stop(self) -> None:
        """Ask all processes to stop; they agree on it in the next iteration."""
        self.stop_asked = True

    def reduce(self, non_finite: Tensor | None = None) -> Tensor:
        """Reduce the flags over all processes, at most once an iteration.

        Args:
            non_finite: Bool scalar on the device, whether this process saw a number that is not
                finite.

        Returns:
            The agreed vector (2,), float32 on the device: non-finite, stop.
        """
        if self.reduced is None:
            flags = torch.tensor([0.0, float(self.stop_asked)])
            if self.device.type == "cuda":
                flags = flags.pin_memory().to(self.device, non_blocking=True)
            if non_finite is not None:
                flags[NON_FINITE] = non_finite.to(flags.dtype)
            self.reduced = distributed.max_over_ranks(flags)
        return self.reduced

    def close(self, iteration: int) -> list[Verdict]:
        """End an iteration and return what can be read by now.

        Args:
            iteration: Number of the iteration that ends, from 0.
        """
        vector = self.reduce()
        self.reduced = None
        if self.device.type == "cuda":
            host = torch.empty(2, pin_memory=True)
            host.copy_(vector, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
            self._pending.append((iteration, host, event))
        else:
            self._pending.append((iteration, vector, None))
        return self._read(self.lag)

    def drain(self) -> list[Verdict]:
        """Wait for all that has not been read yet; before something is saved."""
        return self._read(0)

    def _read(self, leave: int) -> list[Verdict]:
        verdicts = []
        while len(self._pending) > leave:
            iteration, vector, event = self._pending.popleft()
            if event is not None:
                event.synchronize()
            non_finite, stop = vector.tolist()
            verdicts.append(Verdict(iteration, bool(non_finite), bool(stop)))
        return verdicts
