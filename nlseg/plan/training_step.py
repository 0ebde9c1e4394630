"""What a training step costs: measured at any size, and extrapolated to larger ones."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mmengine.optim import OptimWrapper
from mmengine.structures import PixelData
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from nlseg.ops.resize import Size
from nlseg.plan.memory import TensorMemory
from nlseg.structures import SegDataSample

STRAIGHT = {"flops": 0.0, "forward_flops": 0.0, "work_bytes": 0.3, "seconds": float("inf")}
"""How far, as a share, a line through two steps may miss a third that is taken to lie on it.

Operations are counted and obey the formula to the last digit, times are noisy.
"""


@dataclass
class StepCost:
    """What one training step took.

    Args:
        images: Images in the batch.
        size: Height and width of each in px.
        held_bytes: Memory of weights, buffers and optimizer state.
        work_bytes: Most memory that forward and backward held without these and the gradients.
        update_bytes: Most memory in the optimizer's step, which does not depend on the images.
        seconds: Time of forward, backward and optimizer.
        flops: Floating point operations of forward and backward; a multiply-add counts as two.
        forward_flops: Those of the forward pass.
    """

    images: int
    size: Size
    held_bytes: int
    work_bytes: int
    update_bytes: int
    seconds: float
    flops: int
    forward_flops: int

    @property
    def peak_bytes(self) -> int:
        """Most memory that tensors hold in the whole step.

        Activations are most when the backward pass begins and gradients are still to come; all
        gradients are there when the optimizer steps.
        """
        return max(self.held_bytes + self.work_bytes, self.update_bytes)


class StepProbe:
    """Takes training steps of a model and measures them.

    Args:
        model: The segmentor, on its device.
        wrapper: Its optimizer.
    """

    def __init__(self, model: nn.Module, wrapper: OptimWrapper) -> None:
        self.model: Any = model
        self.wrapper = wrapper
        self.device = next(model.parameters()).device
        kernels = (p for p in model.parameters() if p.ndim == 4)
        self.channels = next((int(kernel.shape[1]) for kernel in kernels), 3)
        """Channels of an image: those of the first convolution."""

    def _loss(self, inputs: Tensor, samples: Sequence[SegDataSample]) -> Tensor:
        with self.wrapper.optim_context(self.model):
            losses = self.model(inputs, list(samples), mode="loss")
        loss: Tensor = self.model.parse_losses(losses)[0]
        return loss

    def _run(self, inputs: Tensor, samples: Sequence[SegDataSample]) -> None:
        self.wrapper.backward(self._loss(inputs, samples))
        self.wrapper.step()
        self.wrapper.zero_grad()

    def measure(self, inputs: Tensor, samples: Sequence[SegDataSample]) -> StepCost:
        """Take three steps: one makes the optimizer's state, one is counted, one is timed.

        Args:
            inputs: Preprocessed images (N, 3, H, W) on the model's device.
            samples: Their labels.

        Returns:
            What they took.
        """
        self.model.train()
        if not self.wrapper.optimizer.state:
            self._run(inputs, samples)
        size: Size = (inputs.shape[2], inputs.shape[3])
        held = self.held_bytes()
        forward, both = FlopCounterMode(display=False), FlopCounterMode(display=False)
        memory = TensorMemory(self.device, held + inputs.nbytes)
        with memory, both:
            with forward:
                loss = self._loss(inputs, samples)
            with memory.without_gradients(self.model):
                self.wrapper.backward(loss)
            work = memory.take_peak() - held
            self.wrapper.step()
        update = memory.take_peak()
        self.wrapper.zero_grad()
        started = self._now()
        self._run(inputs, samples)
        seconds = self._now() - started
        flops = (both.get_total_flops(), forward.get_total_flops())
        return StepCost(len(inputs), size, held, work, update, seconds, *flops)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def held_bytes(self) -> int:
        """Return the bytes of weights, buffers and optimizer state."""
        return sum({t.untyped_storage().data_ptr(): t.nbytes for t in self._held()}.values())

    def _held(self) -> Iterator[Tensor]:
        yield from self.model.parameters()
        yield from self.model.buffers()
        yield from (t for t in tree_leaves(self._optimizer_state()) if isinstance(t, Tensor))

    def _optimizer_state(self) -> list[Any]:
        return [dict(state) for state in self.wrapper.optimizer.state.values()]


def cut(
    inputs: Tensor, samples: Sequence[SegDataSample], images: int, size: Size
) -> tuple[Tensor, list[SegDataSample]]:
    """Take the first images of a batch and the upper left corner of each.

    Args:
        inputs: Images (N, 3, H, W).
        samples: Labels (1, H, W) in ``gt_sem_seg``.
        images: How many to take.
        size: Height and width of the corner in px.

    Returns:
        Images (n, 3, h, w) and their samples.
    """
    height, width = size
    chosen = []
    for sample in samples[:images]:
        label = sample.gt_sem_seg.data[:, :height, :width]
        part = SegDataSample(metainfo={"img_shape": size, "pad_shape": size, "ori_shape": size})
        part.gt_sem_seg = PixelData(data=label)
        chosen.append(part)
    return inputs[:images, :, :height, :width].contiguous(), chosen


def drawn_batch(
    images: int, size: Size, num_classes: int, device: torch.device, channels: int = 3
) -> tuple[Tensor, list[SegDataSample]]:
    """Draw a batch of noise with labels of every class.

    Args:
        images: Number of images N.
        size: Height H and width W in px.
        num_classes: Number of classes.
        device: Where to put it.
        channels: Channels C of an image.

    Returns:
        Images (N, C, H, W), float, and their samples.
    """
    rng = torch.Generator().manual_seed(0)
    inputs = torch.randn(images, channels, *size, generator=rng).to(device)
    samples = []
    for _ in range(images):
        label = torch.randint(num_classes, (1, *size), generator=rng).to(device)
        sample = SegDataSample(metainfo={"img_shape": size, "pad_shape": size, "ori_shape": size})
        sample.gt_sem_seg = PixelData(data=label)
        samples.append(sample)
    return inputs, samples


def smaller_sizes(size: Size) -> list[Size]:
    """Return sizes of a quarter, a half and three quarters of each side, in steps of 8 px."""
    fractions = (0.25, 0.5, 0.75)
    found = [
        (max(32, round(size[0] * f / 8) * 8), max(32, round(size[1] * f / 8) * 8))
        for f in fractions
    ]
    return [(min(h, size[0]), min(w, size[1])) for h, w in dict.fromkeys(found)]


def extrapolate(steps: Sequence[StepCost], name: str, size: Size, images: int) -> float:
    """Extrapolate a measured quantity to a larger size and batch.

    Quantity = a + n (b p + c p^2) with n images of p pixels. The square is there where attention
    holds all pairs of positions; it is left out where two steps predict the third without it.
    Where noise of short steps bends the line down, the largest step's own value is the answer.

    Args:
        steps: Steps of one image at three sizes, smallest first.
        name: Field of ``StepCost``, one of ``STRAIGHT``.
        size: Height and width in px to extrapolate to.
        images: Number of images n.

    Returns:
        The quantity there.
    """
    target = float(size[0] * size[1])
    shares = np.array([step.size[0] * step.size[1] / target for step in steps])
    values = np.array([getattr(step, name) for step in steps], dtype=float)
    if len(steps) == 1:
        return float(values[0] / steps[0].images * images / shares[0])
    slope, start = np.polyfit(shares[-2:], values[-2:], 1)
    if len(steps) > 2 and abs(start + slope * shares[0] - values[0]) > STRAIGHT[name] * values[0]:
        square, slope, start = np.polyfit(shares[-3:], values[-3:], 2)
        return float(max(max(start, 0.0) + images * (slope + square), values[-1]))
    return float(max(max(start, 0.0) + images * slope, values[-1]))


def full_bytes(steps: Sequence[StepCost], size: Size, images: int) -> float:
    """Extrapolate the memory of small steps to a full one.

    Args:
        steps: Steps of one image, smallest first.
        size: Height and width in px.
        images: Images in the batch.

    Returns:
        Most memory that tensors hold, in bytes.
    """
    last = steps[-1]
    work = extrapolate(steps, "work_bytes", size, images)
    return max(last.held_bytes + work, last.update_bytes)
