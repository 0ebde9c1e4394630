"""The written file against the network: it runs in a process of its own, on five sizes."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nlseg.errors import UserError
from nlseg.export import run_file
from nlseg.export.runtime import as_input
from nlseg.export.tracing import image_channels
from nlseg.export.writing import SMALLEST
from nlseg.ops.global_context import ContextBlock
from nlseg.ops.logit_rows import whole_map
from nlseg.ops.non_local import NonLocal2d
from nlseg.ops.resize import Size
from nlseg.structures import SegDataSample
from nlseg.table import format_table

Images = NDArray[np.uint8]
"""Pictures (N, H, W, C) as decoders give them."""


class Limits(NamedTuple):
    """What a file has to reach.

    Args:
        difference: Largest difference of a logit; relative to the largest logit where that is
            above 1, as float32 rounds relative to it.
        equal: Share of pixels with the same label, in [0, 1].
    """

    difference: float
    equal: float


SINGLE, HALF = Limits(1e-4, 0.9999), Limits(2e-2, 0.99)


class Comparison(NamedTuple):
    """One batch through both.

    Args:
        shape: Batch, height and width.
        difference: See ``Limits``; None where the file gives labels.
        equal: Share of equal pixels.
    """

    shape: tuple[int, int, int]
    difference: float | None
    equal: float


@dataclass(frozen=True)
class Parity:
    """What the comparison found.

    Args:
        rows: One for each batch.
        limits: What was asked for.
        time_ratio: Time of the file by that of PyTorch, on the first batch.
        memory_ratio: The same of the memory above that of the loaded network; None where the
            system does not tell.
        memory_mib: The file's.
        foreign: Modules of nlseg that the file's process had imported; there must be none.
    """

    rows: list[Comparison]
    limits: Limits
    time_ratio: float
    memory_ratio: float | None
    memory_mib: float | None
    foreign: list[str]

    @property
    def difference(self) -> float | None:
        """The largest difference of all batches."""
        return max(
            (row.difference for row in self.rows if row.difference is not None), default=None
        )

    @property
    def equal(self) -> float:
        """The smallest share of equal pixels."""
        return min(row.equal for row in self.rows)

    @property
    def holds(self) -> bool:
        """Whether the file says what the network says; a number that is none does not."""
        close = self.difference is None or self.difference <= self.limits.difference
        return close and self.equal >= self.limits.equal and not self.foreign

    def text(self) -> str:
        """Return the comparison as lines for the terminal."""
        cells = [
            [
                "x".join(map(str, row.shape)),
                "-" if row.difference is None else f"{row.difference:.1e}",
                f"{100 * row.equal:.4f}",
            ]
            for row in self.rows
        ]
        memory = "not told by this system"
        if self.memory_ratio is not None:
            memory = f"{self.memory_ratio:.2f} ({self.memory_mib:.0f} MiB beyond the weights)"
        largest = "-" if self.difference is None else f"{self.difference:.1e}"
        return "\n".join(
            [
                format_table(["batch x height x width", "difference", "equal pixels [%]"], cells),
                f"largest difference {largest} (limit {self.limits.difference:.0e}), "
                f"equal pixels {100 * self.equal:.4f} % (limit {100 * self.limits.equal:g} %)",
                f"at {'x'.join(map(str, self.rows[0].shape))}, file / PyTorch: "
                f"time {self.time_ratio:.2f}, memory {memory}",
            ]
        )


def shapes_for(largest: Size) -> list[tuple[int, int, int]]:
    """Return five batches (N, H, W), the largest image first: odd sides, and batches of 1 and 3."""
    height, width = largest
    shapes = [
        (1, height, width),
        (3, height // 2, width // 2 | 1),
        (1, height // 3 | 1, width),
        (3, height // 4 | 1, width // 4 + 2),
        (1, height // 2 | 1, width // 3 | 1),
    ]
    return [(batch, max(h, SMALLEST), max(w, SMALLEST + 1)) for batch, h, w in shapes]


def silent_blocks(model: nn.Module) -> list[str]:
    """Return the paths of blocks that do nothing yet, as their last layer is zero."""
    return [name for name, layers in _last_layers(model) if not all(_any(x) for x in layers)]


def with_loud_blocks(model: nn.Module) -> nn.Module:
    """Return a copy whose silent blocks have random weights, the same ones every time.

    Every map in them gets a spread of 1: at their initial scale all positions weigh alike,
    whatever is compared.
    """
    copy = deepcopy(model)
    silent = set(silent_blocks(copy))
    hooks = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, layers in _last_layers(copy):
            if name not in silent:
                continue
            for layer in layers:
                flat = layer.weight.dim() == 1  # type: ignore[operator]
                nn.init.normal_(layer.weight, mean=float(flat), std=0.1)  # type: ignore[arg-type]
            convs = [m for m in copy.get_submodule(name).modules() if isinstance(m, nn.Conv2d)]
            hooks += [conv.register_forward_hook(_spread) for conv in convs]
    reference(copy, drawn((1, 96, 136), image_channels(copy), 0))
    for hook in hooks:
        hook.remove()
    return copy


def _spread(conv: Any, _: Any, output: Tensor) -> Tensor:
    """Scale a convolution so that its output has a spread of 1 where it is called."""
    with torch.no_grad():
        shift, spread = output.mean(), output.std().clamp(min=1e-6)
        conv.weight.div_(spread)
        if conv.bias is not None:
            conv.bias.sub_(shift).div_(spread)
    return (output - shift) / spread if conv.bias is not None else output / spread


def compare(
    model: nn.Module,
    file: Path,
    facts: Mapping[str, Any],
    shapes: Sequence[tuple[int, int, int]],
    limits: Limits,
) -> Parity:
    """Run a file in a process of its own, and the network here, on the same drawn images.

    Args:
        model: The network that the file is made of, on the CPU, with ``test_cfg`` as exported.
        file: ONNX or pt2.
        facts: Its metadata.
        shapes: Batch, height and width; the first is timed.
        limits: What the file has to reach.

    Raises:
        UserError: The file cannot be run; the message is the runtime's.
    """
    channels = image_channels(model)
    pictures = [drawn(shape, channels, seed) for seed, shape in enumerate(shapes)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, images in enumerate(pictures):
            np.save(folder / f"{number}.npy", as_input(facts, images))
        found = _run(file, folder)
        results = [np.load(folder / f"out_{number}.npy") for number in range(len(pictures))]
    _, slow, extra = run_file.measured_run(lambda: reference(model, pictures[0]))
    rows, fast = [], slow
    for shape, images, result in zip(shapes, pictures, results, strict=True):
        logits, seconds, _ = run_file.measured_run(lambda: reference(model, images))  # noqa: B023
        fast = min(fast, seconds) if images is pictures[0] else fast
        rows.append(_compared(shape, logits.numpy(), result, facts["threshold"]))
    own: float | None = found["extra_mib"]
    return Parity(
        rows=rows,
        limits=limits,
        time_ratio=found["seconds"] / fast,
        memory_ratio=None if own is None or extra is None else own / max(extra, 1.0),
        memory_mib=own,
        foreign=[each for each in found["modules"] if each.split(".")[0] == "nlseg"],
    )


def reference(model: nn.Module, pictures: Images) -> Tensor:
    """Return the network's own logits (N, K, H, W): preprocessing, windows, padding and all."""
    inner: Any = model
    images = torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)))
    samples = [SegDataSample() for _ in images]
    for sample in samples:
        sample.set_metainfo({"ori_shape": pictures.shape[1:3], "img_shape": pictures.shape[1:3]})
    with torch.no_grad():
        data = inner.data_preprocessor({"inputs": list(images), "data_samples": samples})
        if not inner.streams:
            logits: Tensor = inner.inference(data["inputs"])
            return logits
        rows = inner.logit_rows(data["inputs"], [sample.metainfo for sample in samples])
        return torch.stack([whole_map(source) for source in rows])


def drawn(shape: tuple[int, int, int], channels: int, seed: int) -> Images:
    """Draw images of large and small structures, (N, H, W, C)."""
    batch, height, width = shape
    rng = np.random.RandomState(seed)
    coarse = rng.randint(0, 200, (batch, -(-height // 16), -(-width // 16), channels))
    large = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :width]
    return (large + rng.randint(0, 56, large.shape)).astype(np.uint8)


def _compared(
    shape: tuple[int, int, int], logits: Any, result: Any, threshold: float | None
) -> Comparison:
    expected = _labels(logits, threshold)
    if result.ndim == 3:
        return Comparison(shape, None, float((expected == result).mean()))
    largest = max(1.0, float(np.abs(logits).max()))
    difference = float(np.abs(logits - result).max()) / largest
    return Comparison(
        shape,
        difference if np.isfinite(difference) else float("inf"),
        float((expected == _labels(result, threshold)).mean()),
    )


def _labels(logits: Any, threshold: float | None) -> Any:
    if logits.shape[1] == 1:
        return 1 / (1 + np.exp(-logits[:, 0])) > threshold
    return logits.argmax(1)


def _run(file: Path, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-P"] if sys.version_info >= (3, 11) else [sys.executable]
    done = subprocess.run(
        [*command, str(Path(run_file.__file__)), str(file.resolve()), str(folder)],
        capture_output=True, text=True, cwd=folder, check=False,
    )  # fmt: skip
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1] if lines else f"it ended with code {done.returncode}"
        raise UserError(f"{file}: cannot be run: {reason}")
    found: dict[str, Any] = json.loads((folder / "measured.json").read_text())
    return found


def _last_layers(model: nn.Module) -> list[tuple[str, list[nn.Module]]]:
    found: list[tuple[str, list[nn.Module]]] = []
    for name, module in model.named_modules():
        if isinstance(module, NonLocal2d):
            out = module.conv_out
            found.append((name, [out.norm if out.with_norm else out.conv]))
        elif isinstance(module, ContextBlock):
            branches = (module.channel_add_conv, module.channel_mul_conv)
            found.append((name, [branch[-1] for branch in branches if branch is not None]))
    return found


def _any(layer: Any) -> bool:
    return bool(layer.weight.any())
