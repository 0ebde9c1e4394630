"""Run an exported file on arrays, in a process that has nothing of nlseg: numpy and the runtime.

    python run_file.py FILE FOLDER

FOLDER holds ``0.npy``, ``1.npy``, ...; for each it gets ``out_0.npy``, ..., and ``measured.json``:
seconds and memory of the first input, and the modules that were imported.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def load(file: str) -> Callable[[Any], Any]:
    """Return what maps one input to one output."""
    if file.endswith(".pt2"):
        import torch

        network = torch.export.load(file).module()

        def run(images: Any) -> Any:
            with torch.no_grad():
                return network(torch.from_numpy(images)).numpy()

        return run
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    options = onnxruntime.SessionOptions()
    options.enable_cpu_mem_arena = False  # as OnnxNetwork has it
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (name,) = (each.name for each in session.get_inputs())
    return lambda images: session.run(None, {name: images})[0]


def measured_run(call: Callable[[], Any]) -> tuple[Any, float, float | None]:
    """Call something; return its result, seconds, and MiB held at the most beyond those before.

    The memory is None where the system does not let a process forget its peak.
    """
    before = None
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        before = _status_mib("VmRSS")
    begin = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - begin
    return result, seconds, None if before is None else _status_mib("VmHWM") - before


def _status_mib(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def main(file: str, folder: Path) -> None:
    """Run the file on every array of the folder."""
    run = load(file)
    inputs = sorted(folder.glob("[0-9]*.npy"), key=lambda path: int(path.stem))
    first = np.load(inputs[0])
    _, slow, extra = measured_run(lambda: run(first))
    _, fast, _ = measured_run(lambda: run(first))
    for path in inputs:
        np.save(folder / f"out_{path.stem}.npy", run(np.load(path)))
    measured = {"extra_mib": extra, "seconds": min(slow, fast), "modules": sorted(sys.modules)}
    (folder / "measured.json").write_text(json.dumps(measured))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
