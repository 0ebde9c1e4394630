"""What goes wrong with a training without ending it: one sentence each, where it is first seen.

Each rule is a function of numbers that the log holds anyway. It is written to stay silent in runs
that are short or learn as they should; its docstring says from when on it speaks.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from torch import Tensor

from nlseg.evaluation.iou import IoUMetric
from nlseg.registry import HOOKS
from nlseg.run import processes
from nlseg.run.logs import SCALARS_FILE, ScalarLog, read_scalars
from nlseg.run.protocol import RunnerProtocol

NOTES = "notes"
"""Kind of the lines of ``scalars.jsonl`` that hold sentences."""
LEAST_LINES = 12
LEAST_ITERATIONS = 100
_LEAST_FALL = 0.03
_LEARNT = 0.8
_RISE = 2.0
_RATE_GROWTH = 10.0
_HALF = 0.5
Curve = Sequence[tuple[int, float]]
"""Values of one scalar with their iterations, in order."""


def never_predicted(
    counts: Tensor, before: Tensor | None, classes: Sequence[str], progress: float
) -> list[str]:
    """Return the classes that validation images hold and that no pixel is predicted as.

    Early on that is so in every training. So a class is named from half of the training on, and
    where it was missing at the validation before, too, if there was one.

    Args:
        counts: Pixels (K, K) or larger, rows true, columns predicted.
        before: Those of the validation before.
        classes: Names of the K classes.
        progress: Share of the training that is done, in [0, 1].
    """
    if progress < _HALF:
        return []
    return [
        name
        for k, name in enumerate(classes)
        if _is_missing(counts, k) and (before is None or _is_missing(before, k))
    ]


def _is_missing(counts: Tensor, k: int) -> bool:
    return bool(counts[k].sum() > 0) and not bool(counts[:, k].sum() > 0)


def loss_that_does_not_fall(losses: Curve) -> str | None:
    """Say that the loss stays where it was.

    Compares the median of the last third of the log lines with that of the first third: it has not
    fallen if it is less than 3 % lower. Silent below 12 lines or 100 iterations, and where the
    latest loss is below 80 % of the first line's: that training has learnt and has converged.

    Args:
        losses: Means that the log lines told.
    """
    thirds = _thirds(losses)
    if thirds is None:
        return None
    (first, _, last), begin = thirds, losses[0][1]
    if last < first - _LEAST_FALL * abs(first) or (begin > 0 and last < _LEARNT * begin):
        return None
    return (
        f"the loss does not fall: {first:.4g} in the first third of {losses[-1][0]} iterations, "
        f"{last:.4g} in the last; look at the labels (nlseg browse CONFIG) and the learning rate"
    )


def rate_that_explodes(losses: Curve, rates: Curve) -> str | None:
    """Say that the learning rate explodes, by itself or by what it does to the loss.

    The rate explodes by itself if it is 10 times the highest of the first half of the iterations so
    far; a linear or cosine warm-up of whatever length at most quadruples it in that time. It makes
    the loss explode if the median of the last third of the log lines is twice that of an earlier
    third and above the first line's. Silent below 12 lines or 100 iterations.

    Args:
        losses: Means that the log lines told.
        rates: Learning rates of the same lines.
    """
    thirds = _thirds(losses)
    if thirds is None:
        return None
    now = rates[-1][1] if rates else 0.0
    half = losses[-1][0] * _HALF
    early = max((rate for step, rate in rates if step <= half), default=0.0)
    if early > 0 and now >= _RATE_GROWTH * early:
        return (
            f"the learning rate explodes: at most {early:.3g} up to iteration {half:.0f}, "
            f"{now:.3g} now; look at param_scheduler"
        )
    lowest, last = min(thirds[:2]), thirds[2]
    if lowest > 0 and last >= _RISE * lowest and last > losses[0][1]:
        return (
            f"the loss explodes: it rose from {lowest:.4g} to {last:.4g} at a learning rate of "
            f"{now:.3g}; try a tenth of it, or a warm-up"
        )
    return None


def _thirds(values: Curve) -> tuple[float, float, float] | None:
    """Return the medians of the thirds of a curve that is long enough."""
    if len(values) < LEAST_LINES or values[-1][0] < LEAST_ITERATIONS:
        return None
    cuts = [round(i * len(values) / 3) for i in range(4)]
    parts = [values[cuts[i] : cuts[i + 1]] for i in range(3)]
    first, middle, last = (statistics.median(value for _, value in part) for part in parts)
    return first, middle, last


def curve_of(lines: Sequence[Mapping[str, Any]], name: str) -> Curve:
    """Take one scalar of the training out of the lines of ``scalars.jsonl``."""
    return [
        (int(line["step"]), float(line[name]))
        for line in lines
        if line.get("kind") == "train" and name in line
    ]


def read_notes(folder: Path) -> list[tuple[int, str]]:
    """Return the sentences about a run with their iterations; none without ``scalars.jsonl``."""
    file = folder / SCALARS_FILE
    lines = read_scalars(file) if file.is_file() else []
    return [(line["step"], text) for line in lines for text in line.get(NOTES, ())]


@HOOKS.register_module()
class SymptomHook(Hook):
    """Look at each validation for what goes wrong, and say it once: in the log and the report.

    A class that is never predicted, a loss that does not fall, a learning rate that explodes; the
    rules are those of ``never_predicted``, ``loss_that_does_not_fall`` and ``rate_that_explodes``.
    The loss of a run that begins with trained weights (``load_from``) may have nowhere to fall.
    """

    priority = "LOWEST"

    def __init__(self) -> None:
        self._before: Tensor | None = None
        self._told: set[str] = set()  # topics of the curves' sentences
        self._named = ""  # sentences about classes
        self._training = False

    def before_train(self, runner: RunnerProtocol) -> None:
        """Remember what was said before a restart."""
        self._training = True
        before = [text for _, text in read_notes(Path(runner.work_dir))]
        self._told, self._named = {_topic(text) for text in before}, " ".join(before)

    def after_val_epoch(
        self, runner: RunnerProtocol, metrics: dict[str, float] | None = None
    ) -> None:
        """Look at the scores of the validation and at the log so far."""
        if not (self._training and processes.is_main()):
            return
        of_curves = [text for text in self._curves(runner) if _topic(text) not in self._told]
        self._told |= {_topic(text) for text in of_curves}
        new = [*self._classes(runner), *of_curves]
        for text in new:
            runner.logger.warning(f"iteration {runner.iter}: {text}")
        if new:
            log = ScalarLog(Path(runner.work_dir), runner.logger.warning, tensorboard=False)
            log.note(NOTES, runner.iter, new)

    def _classes(self, runner: RunnerProtocol) -> list[str]:
        found = []
        for metric in runner.val_evaluator.metrics:
            counts = metric.confusion if isinstance(metric, IoUMetric) else None
            if counts is not None:
                progress = runner.iter / max(1, runner.max_iters)
                names = never_predicted(counts, self._before, metric.classes, progress)
                names = [name for name in names if f"{name!r}" not in self._named]
                if names:
                    self._named += f"{list(names)}"
                    found.append(
                        f"never predicted, though labelled: {', '.join(map(repr, names))}; see "
                        "their shares and suggested class weights by nlseg check-data CONFIG"
                    )
                self._before = counts
        return found

    def _curves(self, runner: RunnerProtocol) -> list[str]:
        file = Path(runner.work_dir, SCALARS_FILE)
        lines = read_scalars(file) if file.is_file() else []
        losses, rates = curve_of(lines, "loss"), curve_of(lines, "lr")
        said = [rate_that_explodes(losses, rates)]
        if not runner.cfg.get("load_from"):
            said.append(loss_that_does_not_fall(losses))
        return [text for text in said if text is not None]


def _topic(text: str) -> str:
    """Return what a sentence is about, without its numbers."""
    return text.partition(":")[0]
