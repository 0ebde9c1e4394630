"""The steps of each stage, the most valuable first."""

import sys
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from gpu_proof.steps import Step

ROOT = Path(__file__).parents[2]
WAYS = ("fp32", "bf16", "fp16", "compiled", "graphs")
"""The ways of the profiled trainings."""
SLOWER = 3
"""How much longer than on a GPU's machine a step may take in dry form, on a busy laptop."""


@dataclass(frozen=True)
class Place:
    """Where the steps run and write.

    Args:
        out: Folder of what is kept: the records, the page, the benchmark's files, pictures.
        work: Folder of data and runs, which may be lost.
        camvid: CamVid in the layout of ``CamVidDataset``; stage 4 is left out without.
        device: 'cuda', or 'cpu' in dry form.
        dry: Toy sizes, to see that every step runs and writes what it should.
    """

    out: Path
    work: Path
    camvid: Path | None
    device: str
    dry: bool

    def module(self, name: str, *arguments: str) -> tuple[str, ...]:
        """Return the command of one of this package's modules."""
        dry = ("--dry",) if self.dry else ()
        named = f"gpu_proof.{name}"
        common = ("--work", str(self.work), "--result", "{result}")
        return (sys.executable, "-m", named, *arguments, *common, *dry)

    def tool(self, name: str, *arguments: str) -> tuple[str, ...]:
        """Return the command of one of the tools."""
        return (sys.executable, str(ROOT / "tools" / name), *arguments)

    def benchmark(self, *arguments: str) -> tuple[str, ...]:
        """Return a call of the benchmark that adds to the files of the visit."""
        dry = ("--quick",) if self.dry else ()
        backend = ("--backend", "aot_eager") if self.dry else ()
        return self.tool(
            "benchmark.py", *arguments, "--device", self.device, "--one-process", "--no-growth",
            "--rounds", "5", "--seconds", "10", "--out", str(self.out), *dry, *backend,
        )  # fmt: skip


def all_steps(place: Place) -> list[Step]:
    """Return every step of the four stages; in dry form they may take thrice as long."""
    steps = [*_first(place), *_second(place), *_third(place), *_fourth(place)]
    if not place.dry:
        return steps
    return [replace(step, seconds=SLOWER * step.seconds) for step in steps]


def _first(place: Place) -> list[Step]:
    """What runs at all: the tests, trainings of full size in every precision, and a test."""
    collect = ("--collect-only",) if place.dry else ()
    tests = (
        sys.executable, "-m", "pytest", "-m", "gpu", str(ROOT / "tests/gpu"), "-q",
        "-p", "no:cacheprovider", *collect,
    )  # fmt: skip
    return [
        Step("tests", 1, tests, 150),
        *(_training(place, way) for way in WAYS),
        Step("test --tta", 1, place.module("testing"), 90),
    ]


def _training(place: Place, way: str) -> Step:
    untried = "CUDA graphs are not emulated" if place.dry and way == "graphs" else ""
    return Step(f"train {way}", 1, place.module("training", way), 65, left_out=untried)


def _second(place: Place) -> list[Step]:
    """How fast, and in what memory."""
    return [
        Step("speed of training", 2, place.benchmark("train", "--keep"), 240, resumes=True),
        Step("speed of inference", 2, place.benchmark("inference", "--keep"), 120, resumes=True),
        Step("speed of attention", 2, place.benchmark("attention", "--keep"), 90, resumes=True),
        Step("speed of the block", 2, place.benchmark("block", "--keep"), 90, resumes=True),
        Step(
            "speed of pixels", 2, place.benchmark("loss", "upsample", "count", "--keep"), 90,
            resumes=True,
        ),
    ]  # fmt: skip


def _third(place: Place) -> list[Step]:
    """Images of many sizes, an installed mmsegmentation, one process of several, determinism."""
    no_peer = "" if find_spec("mmseg") else "mmsegmentation is not among the wheels"
    peer = place.benchmark("train", "inference", "--peer", "--match", "NLHead", "--keep")
    return [
        Step("speed of ms+flip", 3, place.benchmark("tta", "--keep"), 120, resumes=True),
        Step("many sizes", 3, place.module("evaluation"), 150),
        Step("one process of NCCL", 3, place.module("one_process"), 60),
        Step("deterministic", 3, place.module("training", "deterministic"), 75),
        Step("deterministic again", 3, place.module("training", "deterministic"), 75),
        Step("speed beside mmsegmentation", 3, peer, 180, resumes=True, left_out=no_peer),
    ]


def _fourth(place: Place) -> list[Step]:
    """Learning: CamVid to its mIoU, killed once and resumed; drawn scenes in dry form."""
    no_data = "" if place.camvid or place.dry else "--data names no folder of CamVid"
    given = ("--data", str(place.camvid)) if place.camvid else ()
    steps = []
    for depth in ("18", "50"):
        command = place.module("camvid", depth, "--out", str(place.out), *given)
        steps.append(Step(f"CamVid R-{depth}", 4, command, 390, resumes=True, left_out=no_data))
    return steps
