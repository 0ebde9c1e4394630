"""Train a full-size R-50 for 20 iterations through the runner, and say where the time goes.

python -m gpu_proof.training bf16 --work DIR --result FILE
"""

import hashlib
import time
import warnings
from collections import Counter
from contextlib import ExitStack
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from torch._C._autograd import DeviceType

from gpu_proof.arguments import step_parser, write_result
from gpu_proof.data import cityscapes_config
from nlseg.run.fast import use_fast_training
from nlseg.run.runner import Runner
from nlseg.table import format_table

ITERATIONS = 20
_WATCHED, _TIMED, _PROFILED = (5, 8), (8, 14), (14, 18)
"""Iterations in which waits are counted, time is taken, and the profiler looks: [first, last)."""
_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")


class Watch(Hook):
    """Notes losses, waits, time and kernels of the iterations above."""

    priority = "VERY_HIGH"

    def __init__(self) -> None:
        self.losses: list[torch.Tensor] = []
        self.found: dict[str, Any] = {}
        self._caught: list[warnings.WarningMessage] = []
        self._open = ExitStack()
        self._start = 0.0
        self._profiler: Any = None

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Begin what begins with this iteration, and end what ended before it."""
        on_gpu = torch.cuda.is_available()
        if runner.iter == _WATCHED[0] and on_gpu:
            self._caught = self._open.enter_context(warnings.catch_warnings(record=True))
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
        if runner.iter == _WATCHED[1] and on_gpu:
            torch.cuda.set_sync_debug_mode("default")
            self._open.close()
            waited = [str(w.message) for w in self._caught if "synchroniz" in str(w.message)]
            self.found["waits"] = sum("prototype" not in text for text in waited)
        if runner.iter == _TIMED[0]:
            self._start = _now()
        if runner.iter == _TIMED[1]:
            self.found["step_s"] = (_now() - self._start) / (_TIMED[1] - _TIMED[0])
        if runner.iter == _PROFILED[0]:
            self._profiler = torch.profiler.profile()
            self._profiler.start()
            self._start = _now()
        if runner.iter == _PROFILED[1]:
            seconds = _now() - self._start
            self._profiler.stop()
            self.found |= summary(self._profiler.events(), seconds, _PROFILED[1] - _PROFILED[0])

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Keep the loss where it is."""
        self.losses.append(outputs["loss"].detach().clone())


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def summary(events: Any, seconds: float, steps: int) -> dict[str, Any]:
    """Return a step's kernel time, launches, gaps, and the kernels that take longest.

    Args:
        events: What the profiler saw.
        seconds: How long that took.
        steps: How many steps it was.
    """
    kernels: Counter[str] = Counter()
    launches = 0
    for event in events:
        if event.device_type == DeviceType.CUDA:
            if not getattr(event, "is_user_annotation", False):
                kernels[event.name] += event.time_range.elapsed_us()
        elif event.name.startswith(_LAUNCHES):
            launches += 1
    busy_s = sum(kernels.values()) / 1e6
    return {
        "profiled_step_s": seconds / steps,
        "kernels_s": busy_s / steps,
        "gaps_s": max(seconds - busy_s, 0.0) / steps,
        "launches": launches / steps,
        "top": [[name[:80], us / 1e6 / steps] for name, us in kernels.most_common(15)],
    }


def configure(cfg: Config, way: str, dry: bool) -> None:
    """Set what a way of training sets.

    Args:
        cfg: Changed in place.
        way: 'fp32', 'bf16' (what ``--fast`` chooses), 'fp16', 'compiled', 'graphs' or
            'deterministic'.
        dry: Compile without PyTorch's own compiler, whose kernels would have to run.
    """
    if way == "deterministic":
        cfg.randomness.deterministic = True
    if way in ("fp32", "deterministic"):
        return
    if way == "fp16":
        cfg.optim_wrapper.type, cfg.optim_wrapper.dtype = "AmpOptimWrapper", "float16"
    if way == "compiled":
        cfg["compile"] = {"backend": "aot_eager"} if dry else True
    use_fast_training(cfg, graphs=way == "graphs")


def digest(model: torch.nn.Module) -> str:
    """Return a hash of all weights' bits."""
    result = hashlib.sha256()
    for parameter in model.parameters():
        result.update(parameter.detach().cpu().numpy().tobytes())
    return result.hexdigest()


def main() -> None:
    parser = step_parser(__doc__)
    parser.add_argument("way")
    args = parser.parse_args()
    cfg = cityscapes_config(args.work, args.way, ITERATIONS, args.dry)
    configure(cfg, args.way, args.dry)
    runner = Runner.build(cfg)
    runner.register_hook(watch := Watch())
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    runner.train()
    losses = [loss.item() for loss in watch.losses]
    found = {"losses": losses, "weights": digest(runner.model), **watch.found}
    if torch.cuda.is_available():
        found["peak_bytes"] = torch.cuda.max_memory_allocated()
    write_result(args, found)
    print(f"loss {losses[0]:.4f} to {losses[-1]:.4f}, step {1000 * found['step_s']:.1f} ms, ")
    print(f"waits {found.get('waits', 'not counted')}, launches {found['launches']:.0f} a step")
    rows = [[name, 1000 * seconds] for name, seconds in found["top"]]
    print(format_table(["kernel", "ms a step"], rows))


if __name__ == "__main__":
    from nlseg.run import command

    command.run(main)
