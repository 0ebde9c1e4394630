"""How many training samples a second one core prepares, in several ways, from the same files."""

import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import torch

from benchmark.baseline_loading import BaselineDataset
from benchmark.measure import Result
from benchmark.results import row_record
from benchmark.suite import Comparison, Target
from nlseg.datasets.synthetic import write_street_scenes
from nlseg.datasets.transforms.decode import fast_decoder
from nlseg.registry import DATASETS
from nlseg.structures import SampleIndex

FIRST = "baseline"
TARGETS = {
    "exact": Target(time=1 / 1.6),
    "cached, exact": Target(time=1 / 4),
    "cached, fast": Target(time=1 / 10),
}
STEPS_MS = (50, 100, 250, 1000)
_BATCH = 4


class Clock:
    """Add up the time that a callable takes.

    Args:
        call: What is called.
    """

    def __init__(self, call: Callable[[Any], Any]) -> None:
        self.call = call
        self.seconds: list[float] = []

    def __call__(self, sample: Any) -> Any:
        """Call it and note the time."""
        start = time.perf_counter()
        result = self.call(sample)
        self.seconds.append(time.perf_counter() - start)
        return result

    @property
    def name(self) -> str:
        """Name of the transform."""
        return type(self.call).__name__.replace("Baseline", "")


def cityscapes_config(root: str, scale: int = 1) -> dict[str, Any]:
    """Describe the training images below a folder in the layout of Cityscapes.

    Args:
        root: The folder.
        scale: How many times smaller than Cityscapes' the images are.
    """
    return {
        "type": "CityscapesDataset",
        "data_root": root,
        "data_prefix": {"img_path": "leftImg8bit/train", "seg_map_path": "gtFine/train"},
        "pipeline": [
            {"type": "LoadImageFromFile"},
            {"type": "LoadAnnotations"},
            {
                "type": "RandomResize",
                "scale": (2048 // scale, 1024 // scale),
                "ratio_range": (0.5, 2.0),
                "keep_ratio": True,
            },
            {
                "type": "RandomCrop",
                "crop_size": (512 // scale, 1024 // scale),
                "cat_max_ratio": 0.75,
            },
            {"type": "RandomFlip", "prob": 0.5},
            {"type": "PhotoMetricDistortion"},
            {"type": "PackSegInputs"},
        ],
    }


def build_ways(config: Mapping[str, Any], cache_dir: str) -> dict[str, Any]:
    """Make the same data set in every way that is measured.

    Args:
        config: Config of a data set with a plain list of transforms.
        cache_dir: Folder for decoded frames.
    """
    plain = {**config, "fuse": "off"}
    cached = {**config, "cache": "memmap", "cache_dir": cache_dir}
    return {
        FIRST: BaselineDataset(DATASETS.build(plain), config["pipeline"]),
        "separate transforms": DATASETS.build(plain),
        "exact": DATASETS.build({**config, "fuse": "exact"}),
        "fast": DATASETS.build({**config, "fuse": "fast"}),
        "cached, exact": DATASETS.build({**cached, "fuse": "exact"}),
        "cached, fast": DATASETS.build({**cached, "fuse": "fast"}),
    }


def worst_difference(ways: Mapping[str, Any], pairs: int) -> dict[str, int]:
    """Return for each way the largest difference of an image value from the baseline's.

    Args:
        ways: The data sets.
        pairs: Samples to compare; their labels must be equal.
    """
    worst = dict.fromkeys(ways, 0)
    for number in range(pairs):
        index = SampleIndex(number % len(ways[FIRST]), number)
        expected = ways[FIRST][index]
        for name, way in ways.items():
            item = way[index]
            if not torch.equal(_label(item), _label(expected)):
                raise AssertionError(f"{name}: the label of sample {number} differs")
            off = (item["inputs"].int() - expected["inputs"].int()).abs().max()
            worst[name] = max(worst[name], int(off))
    return worst


def _label(item: Any) -> torch.Tensor:
    label: torch.Tensor = item["data_samples"].gt_sem_seg.data
    return label


def time_in_turns(ways: Mapping[str, Any], pairs: int, rounds: int) -> dict[str, Result]:
    """Return each way's seconds per sample in each round; the ways take turns.

    Args:
        ways: The data sets.
        pairs: Samples of a round.
        rounds: Number of rounds.
    """
    results = {name: Result() for name in ways}
    for turn in range(rounds):
        names = list(ways) if turn % 2 == 0 else list(ways)[::-1]
        for name in names:
            way = ways[name]
            start = time.perf_counter()
            for number in range(turn * pairs, (turn + 1) * pairs):
                way[SampleIndex(number % len(way), number)]
            results[name].times_s.append((time.perf_counter() - start) / pairs)
    return results


def clock_steps(way: Any, pairs: int) -> list[Clock]:
    """Measure each transform of a way by itself."""
    holder = way if isinstance(way, BaselineDataset) else way.pipeline
    clocks = [Clock(step) for step in holder.steps]
    holder.steps, plain = clocks, holder.steps
    for number in range(pairs):
        way[SampleIndex(number % len(way), number)]
    holder.steps = plain
    return clocks


def measure_loading(data_root: str | None = None, *, quick: bool = False) -> dict[str, Any]:
    """Measure all ways.

    Args:
        data_root: Folder in the layout of Cityscapes; street scenes are drawn where None.
        quick: Few and small images.

    Returns:
        Rows and tables of the section.
    """
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    scale, pairs, rounds = (8, 4, 2) if quick else (1, 24, 5)
    with tempfile.TemporaryDirectory() as folder:
        root = os.path.abspath(data_root) if data_root else f"{folder}/data"
        if not data_root:
            size = (1024 // scale, 2048 // scale)
            write_street_scenes(root, num_train=8, num_val=0, size=size)
        ways = build_ways(cityscapes_config(root, scale), folder)
        worst = worst_difference(ways, min(pairs, 8))
        results = time_in_turns(ways, pairs, rounds)
        found = fast_decoder()
        decoder = found[0] if found else "OpenCV"
        name = f"one core, {len(ways[FIRST])} pairs of files, PNG by {decoder}"
        row = Comparison(name, build_ways, tuple(ways), {} if quick else TARGETS)
        step_tables = [_step_table(way, ways[way], pairs) for way in ways]
    return {
        "rows": [row_record(row, results)],
        "tables": [_rate_table(results, worst), *step_tables],
    }


def _rate_table(results: Mapping[str, Result], worst: Mapping[str, int]) -> dict[str, Any]:
    lines = []
    for name, result in results.items():
        pair = statistics.median(result.times_s)
        workers = [str(math.ceil(pair * _BATCH * 1000 / step)) for step in STEPS_MS]
        lines.append([name, f"{1 / pair:.1f}", str(worst[name]), *workers])
    columns = [f"workers for {_BATCH} every {step} ms" for step in STEPS_MS]
    return {
        "title": "Pairs a second; largest difference of a value from the baseline; worker "
        "processes that training steps of a given length need:",
        "columns": ["way", "pairs/s", "off by", *columns],
        "rows": lines,
    }


def _step_table(name: str, way: Any, pairs: int) -> dict[str, Any]:
    clocks = clock_steps(way, pairs)
    lines = [[clock.name, f"{1000 * statistics.mean(clock.seconds):.2f}"] for clock in clocks]
    return {"title": f"Each transform, {name}:", "columns": ["transform", "ms"], "rows": lines}
