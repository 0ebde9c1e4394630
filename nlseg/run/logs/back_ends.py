"""Back ends of the visualizer (TensorBoard, W&B, ...) that may fail without ending a training."""

from collections.abc import Callable
from functools import wraps
from typing import Any

_METHODS = ("add_config", "add_graph", "add_image", "add_scalar", "add_scalars", "close")
_PATIENCE = 3


def forgive_back_ends(visualizer: Any, warn: Callable[[str], None]) -> None:
    """Let errors of a visualizer's back ends become one warning each.

    A back end that fails several times in a row is not called again, as each time may take long.

    Args:
        visualizer: mmengine's, or one like it.
        warn: Called with one line when a back end fails for the first time.
    """
    for name, back_end in visualizer._vis_backends.items():
        guard = _Guard(name, warn)
        for method in _METHODS:
            setattr(back_end, method, guard.around(getattr(back_end, method)))


class _Guard:
    def __init__(self, name: str, warn: Callable[[str], None]) -> None:
        self.name, self.warn = name, warn
        self.warned = False
        self.failures = 0

    def around(self, method: Callable[..., Any]) -> Callable[..., None]:
        @wraps(method)
        def call(*arguments: Any, **options: Any) -> None:
            if self.failures == _PATIENCE:
                return
            try:
                method(*arguments, **options)
                self.failures = 0
            except Exception as error:
                self.failures += 1
                self.tell(error)

        return call

    def tell(self, error: Exception) -> None:
        if not self.warned:
            self.warned = True
            self.warn(
                f"{self.name} fails ({error!r}); the run goes on, and without it after "
                f"{_PATIENCE} failures in a row"
            )
