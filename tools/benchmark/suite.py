"""What is measured: the rows of each section, how large they are and what they should reach."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmark import attention, blocks, networks, pixels
from benchmark.networks import (
    BASELINE,
    BEST,
    COMPILED,
    FP16,
    GRAPHS,
    PEER,
    PLAIN,
    Network,
)
from nlseg.ops.non_local import AttentionMode
from nlseg.ops.resize import Size

MODES: tuple[AttentionMode, ...] = (
    "embedded_gaussian", "gaussian", "dot_product", "concatenation",
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """What a way should reach compared with the baseline.

    Args:
        time: Its share of the time, at most.
        memory: Its share of the peak memory, at most.
        rate: Share of the hardware's matrix rate, at least.
        memory_gib: Peak memory itself, at most.
    """

    time: float | None = None
    memory: float | None = None
    rate: float | None = None
    memory_gib: float | None = None


@dataclass(frozen=True)
class Comparison:
    """One comparison.

    Args:
        name: What is done, and to how much.
        build: Takes a way and a device, and builds the work.
        ways: Names of the ways; the first is what the others are compared with.
        targets: What a way should reach.
    """

    name: str
    build: Callable[..., Any]
    ways: tuple[str, ...] = (BASELINE, PLAIN)
    targets: dict[str, Target] = field(default_factory=dict)


@dataclass(frozen=True)
class Growth:
    """The same work at four sizes, to see how it grows.

    Args:
        name: What is done.
        build: Takes a way, a device and ``size``.
        sizes: For each way, heights and widths.
    """

    name: str
    build: Callable[..., Any]
    sizes: dict[str, tuple[Size, ...]]


@dataclass(frozen=True)
class Suite:
    """The rows for one device.

    Args:
        device: 'cpu' or 'cuda'.
        quick: Toy sizes, to see that everything runs; targets do not hold there.
        peer: Whether mmsegmentation is run, too.
        backend: What compiles, see ``Network``.
    """

    device: str = "cpu"
    quick: bool = False
    peer: bool = False
    backend: str | None = None

    def _size(self, height: int, width: int) -> Size:
        return (height // 8, width // 8) if self.quick else (height, width)

    def _row(
        self,
        name: str,
        build: Callable[..., Any],
        ways: tuple[str, ...] = (BASELINE, PLAIN),
        targets: dict[str, Target] | None = None,
    ) -> Comparison:
        return Comparison(name, build, ways, {} if self.quick else targets or {})

    def _network(self, head: str = "NLHead", **test_cfg: Any) -> Network:
        settings = tuple({"mode": "whole", **test_cfg}.items())
        if self.quick:
            return Network(18, 16, head, test_cfg=settings, backend=self.backend)
        return Network(head=head, test_cfg=settings, backend=self.backend)

    def _ways(self, *on_gpu: str) -> tuple[str, ...]:
        if self.peer:
            return (BASELINE, PLAIN, BEST, PEER)
        return (BASELINE, PLAIN, BEST, *(on_gpu if self.device == "cuda" else ()))

    def block(self) -> list[Comparison]:
        """Return the rows of the non-local and global context blocks."""
        small, large = (64, 128), (128, 256)
        rows = [
            self._block("embedded_gaussian", small, Target(0.7, 0.1)),
            self._block("embedded_gaussian", large, Target(0.5, 0.1)),
            self._block("gaussian", small, Target(0.7, 0.1)),
            self._block("dot_product", small, Target(0.1, 0.1)),
            self._block("concatenation", (32, 32), Target(0.1, 0.1)),
            self._block("embedded_gaussian", small, Target(0.8, 0.25), batch=2, back=True),
            self._block("gaussian", small, Target(), back=True),
            self._block("dot_product", small, Target(), back=True),
        ]
        size = self._size(*small)
        build = partial(blocks.global_context, size=size)
        if self.quick:
            rows = rows[2:]
        return [*rows, self._row(f"global context, forward, 1x512x{size[0]}x{size[1]}", build)]

    def _block(
        self, mode: AttentionMode, size: Size, target: Target, *, batch: int = 1, back: bool = False
    ) -> Comparison:
        size = self._size(*size)
        work = "forward and backward" if back else "forward"
        build = partial(blocks.non_local, mode=mode, size=size, batch=batch, backward=back)
        ways = (BASELINE, PLAIN, BEST) if self.device == "cuda" else (BASELINE, PLAIN)
        name = f"{mode}, {work}, {batch}x512x{size[0]}x{size[1]}"
        return self._row(name, build, ways, {PLAIN: target})

    def block_growth(self) -> list[Growth]:
        """Return how the block grows in each mode; all pairs of positions are soon too many."""
        short = self._sizes((32, 64), (64, 64), (64, 128), (128, 128))
        pairs = ((8, 16), (16, 16), (16, 32), (32, 32))
        ours = self._sizes((64, 64), (64, 128), (128, 128), (128, 256))
        modes = MODES[:1] if self.quick else MODES
        return [
            Growth(
                mode,
                partial(blocks.non_local, mode=mode),
                {BASELINE: pairs if mode == "concatenation" else short, PLAIN: ours},
            )
            for mode in modes
        ]

    def _sizes(self, *sizes: Size) -> tuple[Size, ...]:
        return tuple(self._size(*size) for size in sizes)

    def attention(self) -> list[Comparison]:
        """Return the rows of the attention kernels that there are, each asked for by its name."""
        kernels = attention.KERNELS if self.device == "cuda" else attention.KERNELS_ON_CPU
        sizes = (self._size(64, 128), self._size(128, 256))
        rows = []
        for backward, (height, width) in itertools.product((False, True), sizes):
            build = partial(attention.attend, positions=height * width, backward=backward)
            work = "forward and backward" if backward else "forward"
            rows.append(self._row(f"{work}, 2x{height * width}x256", build, kernels))
        changing = self._row(
            "forward, 8 numbers of positions not seen before", attention.attend_changing, kernels
        )
        return rows[:1] if self.quick and self.device == "cpu" else [*rows, changing]

    def loss(self) -> list[Comparison]:
        """Return the rows of the loss with its gradient."""
        large, wide = self._size(512, 512), self._size(512, 1024)
        build = partial(pixels.loss, classes=150, size=large, batch=4)
        other = partial(pixels.loss, classes=19, size=wide, batch=2)
        goal = {PLAIN: Target(0.45, 0.1)}
        rows = [
            self._row(f"150 classes, 4x{large[0]}x{large[1]}", build, targets=goal),
            self._row(f"19 classes, 2x{wide[0]}x{wide[1]}", other),
        ]
        for kind in ("DiceLoss", "TverskyLoss", "FocalLoss"):
            name = f"{kind}, 150 classes, 4x{large[0]}x{large[1]}"
            goal = {PLAIN: Target(memory=0.15)}
            rows.append(self._row(name, partial(build, kind=kind), targets=goal))
        return rows[1:2] if self.quick else rows

    def upsample(self) -> list[Comparison]:
        """Return the rows of logits to class map."""
        return [self._pixels(pixels.upsample, k, Target(0.3, 0.15)) for k in self._classes()]

    def count(self) -> list[Comparison]:
        """Return the rows of counting."""
        ways = (BASELINE, PLAIN, pixels.BYTES)
        return [self._pixels(pixels.count, k, Target(0.1), ways) for k in self._classes()]

    def _classes(self) -> tuple[int, ...]:
        return (19,) if self.quick else (19, 150)

    def _pixels(
        self,
        work: Callable[..., Any],
        classes: int,
        target: Target,
        ways: tuple[str, ...] = (BASELINE, PLAIN),
    ) -> Comparison:
        size = self._size(1024, 2048)
        build = partial(work, classes=classes, size=size)
        name = f"{classes} classes, {size[0]}x{size[1]}"
        return self._row(name, build, ways, {PLAIN: target})

    def inference(self) -> list[Comparison]:
        """Return the rows of whole-image inference."""
        rows = []
        for head in ("NLHead",) if self.quick else ("NLHead", "GCHead"):
            for full in ((512, 1024),) if self.quick else ((512, 1024), (1024, 2048)):
                build = partial(
                    networks.inference, network=self._network(head), size=self._size(*full)
                )
                goal = self._inference_goal() if (head, full[0]) == ("NLHead", 1024) else {}
                name = self._name(head, self._size(*full))
                rows.append(self._row(name, build, self._ways(FP16, COMPILED), goal))
        return rows

    def _inference_goal(self) -> dict[str, Target]:
        if self.device == "cuda":
            return {BEST: Target(0.25, 0.1), COMPILED: Target(0.25, 0.1)}
        return {PLAIN: Target(0.8, 0.15), BEST: Target(0.5, 0.15)}

    def _name(self, head: str, size: Size, batch: int = 1) -> str:
        name = f"R-{18 if self.quick else 50} {head}, {batch}x3x{size[0]}x{size[1]}"
        # on a GPU rows without it have more ways, and stay beside those with it
        return name + ", beside mmsegmentation" * (self.peer and self.device == "cuda")

    def inference_growth(self) -> list[Growth]:
        """Return how whole-image inference grows."""
        if self.quick:
            return []
        sizes = self._sizes((256, 512), (512, 512), (512, 1024), (1024, 1024))
        build = partial(networks.inference, network=self._network())
        return [Growth("R-50 NLHead", build, {BASELINE: sizes, PLAIN: sizes})]

    def slide(self) -> list[Comparison]:
        """Return the rows of sliding windows."""
        size = self._size(1024, 2048)
        crop, step = (96, 64) if self.quick else (769, 513)
        network = self._network(mode="slide", crop_size=(crop, crop), stride=(step, step))
        build = partial(networks.inference, network=network, size=size)
        name = f"{self._name('NLHead', size)} in {crop}x{crop}"
        return [self._row(name, build, self._ways(COMPILED))]

    def tta(self) -> list[Comparison]:
        """Return the rows of test-time augmentation."""
        ways = self._ways()
        goal = {PLAIN: Target(0.85, 0.2)} if self.device == "cpu" else {}
        size, large = self._size(512, 1024), self._size(1024, 2048)
        build = partial(networks.augmented, network=self._network())
        name = "{}, 6 scales x flip"
        rows = [
            self._row(
                name.format(self._name("NLHead", size)), partial(build, size=size), ways, goal
            )
        ]
        if not self.quick:
            limit = Target(memory_gib=6.0 if self.device == "cuda" else 4.0)
            whole = partial(build, size=large)
            best = (BEST,) if self.device == "cuda" else ()
            row = Comparison(
                name.format(self._name("NLHead", large)), whole, (PLAIN, *best),
                dict.fromkeys((PLAIN, *best), limit),
            )  # fmt: skip
            rows.append(row)
        return rows

    def train(self) -> list[Comparison]:
        """Return the rows of training steps."""
        if self.device == "cpu":
            rows = [self._train("NLHead", 2, {PLAIN: Target(0.95, 0.75), BEST: Target(0.6, 0.5)})]
            return rows if self.quick else [*rows, self._train("GCHead", 2, {})]
        quick = {way: Target(0.35, 0.4) for way in (BEST, COMPILED)}
        full = {way: Target(0.35, 0.4, rate=0.45) for way in (BEST, COMPILED)}
        return [
            self._train("NLHead", 16, full),
            self._train("NLHead", 2, quick),
            self._train("GCHead", 2, {}),
        ]

    def _train(self, head: str, batch: int, targets: dict[str, Target]) -> Comparison:
        size = self._size(512, 1024)
        build = partial(networks.train, network=self._network(head), size=size, batch=batch)
        ways = self._ways(FP16, COMPILED, GRAPHS)
        return self._row(self._name(head, size, batch), build, ways, targets)
