"""What runs beside training: weight averages, log lines, progress bars, pictures."""

import json
import logging
import math
import re
import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
from mmengine import fileio
from mmengine.hooks import EMAHook as MMEMAHook
from mmengine.hooks import Hook
from mmengine.hooks import LoggerHook as MMLoggerHook
from mmengine.model import ExponentialMovingAverage as MMExponentialMovingAverage
from torch import Tensor, nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from nlseg.bounds import Natural, Range
from nlseg.errors import DataError
from nlseg.evaluation.iou import IoUMetric
from nlseg.evaluation.prediction_files import image_root, prediction_name
from nlseg.evaluation.scores import beside_mean, unscored_by
from nlseg.files import write_file
from nlseg.registry import HOOKS, MODELS
from nlseg.run import processes
from nlseg.run.logs import UNLESS_BAR, LogGuard, ScalarLog, WindowBuffer, beside_bar
from nlseg.run.protocol import RunnerProtocol
from nlseg.run.state import describe_settings
from nlseg.structures import SegDataSample
from nlseg.visualization.painter import Painter
from nlseg.visualization.pictures import Image, side_by_side

_NOT_IN_NAMES = re.compile(r"[^\w\-. ]")


@MODELS.register_module()
class ExponentialMovingAverage(MMExponentialMovingAverage):
    """Average parameters as ``(1 - momentum) average + momentum source``, all in a few kernels.

    Args:
        model: The network that is averaged.
        momentum: Weight of the newest parameters, in (0, 1).
        interval: Iterations between two updates.
        device: Where the average lives; None is where the network does.
        update_buffers: Whether buffers are averaged, too, instead of copied.
    """

    def __init__(
        self,
        model: nn.Module,
        momentum: Annotated[float, Range(0, 1, open_low=True, open_high=True)] = 0.0002,
        interval: int = 1,
        device: torch.device | None = None,
        update_buffers: bool = False,
    ) -> None:
        super().__init__(model, momentum, interval, device, update_buffers)

    def update_parameters(self, model: nn.Module) -> None:
        """Take one step towards the parameters of ``model``."""
        source = model.state_dict() if self.update_buffers else dict(model.named_parameters())
        pairs = [(average, source[name].detach()) for name, average in self.avg_parameters.items()]
        if int(self.steps) == 0:
            _copy(pairs)
        elif int(self.steps) % self.interval == 0:
            floats = [pair for pair in pairs if pair[0].is_floating_point()]
            averages = [average.data for average, _ in floats]
            news = [new.to(average.device) for average, new in floats]
            torch._foreach_lerp_(averages, news, self.momentum)
        if not self.update_buffers:
            _copy(list(zip(self.module.buffers(), model.buffers(), strict=True)))
        self.steps += 1


def _copy(pairs: list[tuple[Tensor, Tensor]]) -> None:
    for floating in (True, False):  # all of one type are one kernel, of several one each
        chosen = [pair for pair in pairs if pair[0].is_floating_point() == floating]
        if chosen:
            torch._foreach_copy_([target.data for target, _ in chosen], [new for _, new in chosen])


@HOOKS.register_module()
class EMAHook(MMEMAHook):
    """Keep an average of the weights; validate, test and save with it; resume it exactly.

    Args:
        ema_type: The kind of average.
        strict_load: Whether every averaged weight must be in a checkpoint that is resumed.
        begin_iter: Iteration from which to average; before, the weights are copied.
        begin_epoch: Epoch from which to average, in place of an iteration.
        momentum: Weight of the newest parameters, in (0, 1).
        interval: Iterations between two updates.
        update_buffers: Whether buffers are averaged, too.
    """

    def __init__(
        self,
        ema_type: str = "ExponentialMovingAverage",
        strict_load: bool = False,
        begin_iter: Natural = 0,
        begin_epoch: Natural = 0,
        *,
        momentum: Annotated[float, Range(0, 1, open_low=True, open_high=True)] = 0.0002,
        interval: int = 1,
        update_buffers: bool = False,
    ) -> None:
        super().__init__(
            ema_type,
            strict_load,
            begin_iter,
            begin_epoch,
            momentum=momentum,
            interval=interval,
            update_buffers=update_buffers,
        )
        self.swapped = False

    def before_val_epoch(self, runner: RunnerProtocol) -> None:
        """Validate with the average."""
        super().before_val_epoch(runner)
        self.swapped = True

    def after_val_epoch(
        self, runner: RunnerProtocol, metrics: dict[str, float] | None = None
    ) -> None:
        """Give the network its own weights back."""
        super().after_val_epoch(runner, metrics)
        self.swapped = False

    def after_val_interrupted(self, runner: RunnerProtocol) -> None:
        """Give the network its own weights back when a validation ends early."""
        if self.swapped:
            self.after_val_epoch(runner)

    def after_test_epoch(
        self, runner: RunnerProtocol, metrics: dict[str, float] | None = None
    ) -> None:
        """Give the network its own weights back, unless norms were folded for the test."""
        names = dict(self.src_model.named_parameters()).keys()
        if names == dict(self.ema_model.module.named_parameters()).keys():
            super().after_test_epoch(runner, metrics)


@HOOKS.register_module()
class ProgressHook(Hook):
    """Show bars for training, validation and test; log lines scroll above them.

    The bar of the training shows loss and memory as of the latest log line, the latest mIoU and
    the time that is left; a terminal that shows it is spared the lines of single iterations.
    Elsewhere (a file, Slurm) there are the plain log lines only.

    Args:
        enabled: None shows bars where stderr is a terminal.
    """

    priority = "LOWEST"

    def __init__(self, enabled: bool | None = None) -> None:
        self.enabled = enabled
        self._bars: dict[str, tqdm] = {}
        self._stack = ExitStack()
        self._shown: dict[str, str] = {}

    def before_run(self, runner: RunnerProtocol) -> None:
        """Decide whether to show bars."""
        wanted = sys.stderr.isatty() if self.enabled is None else self.enabled
        self.enabled = wanted and processes.is_main()

    def _open(self, runner: RunnerProtocol, name: str, total: int, done: int = 0) -> None:
        if self.enabled:
            if not self._bars:
                self._stack.enter_context(_lines_above_bar(runner.logger))
            self._bars[name] = tqdm(
                total=total, initial=done, desc=name, dynamic_ncols=True, leave=name == "train"
            )

    def _step(self, name: str) -> None:
        if name in self._bars:
            with self._without_terminal():
                self._bars[name].update()

    def _close(self, name: str) -> None:
        if name in self._bars:
            with self._without_terminal():
                self._bars.pop(name).close()
            if not self._bars:
                self._stack.close()

    @contextmanager
    def _without_terminal(self) -> Iterator[None]:
        """Show no bars from now on where the terminal is gone."""
        try:
            yield
        except OSError:
            self.enabled = False
            self._bars.clear()
            self._stack.close()

    def before_train(self, runner: RunnerProtocol) -> None:
        """Open the bar of the whole training."""
        self._open(runner, "train", runner.max_iters, runner.iter)

    def after_train_iter(
        self, runner: RunnerProtocol, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Move on, and show the numbers that the log has read by now."""
        losses = runner.message_hub.log_scalars.get("train/loss")
        if "train" in self._bars and isinstance(losses, WindowBuffer) and losses.is_read:
            mean = losses.mean(int(runner.log_processor.window_size))
            self._shown |= {"loss": f"{mean:.4g}", "memory": f"{_memory_mib()} MiB"}
            self._bars["train"].set_postfix(self._shown, refresh=False)
        self._step("train")

    def after_train(self, runner: RunnerProtocol) -> None:
        """Close the bar."""
        self._close("train")

    def before_val_epoch(self, runner: RunnerProtocol) -> None:
        """Open a bar for one validation."""
        self._open(runner, "val", len(runner.val_dataloader))

    def after_val_iter(
        self, runner: RunnerProtocol, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Move on."""
        self._step("val")

    def after_val_epoch(
        self, runner: RunnerProtocol, metrics: dict[str, float] | None = None
    ) -> None:
        """Close the bar, and show the score beside the training's."""
        score = _first_score(metrics or {})
        if score is not None:
            unscored = unscored_by(runner.val_evaluator.metrics)
            self._shown[score[0]] = f"{score[1]:.2f}{beside_mean(unscored)}"
        self._close("val")
        if "train" in self._bars:
            self._bars["train"].set_postfix(self._shown)

    def before_test_epoch(self, runner: RunnerProtocol) -> None:
        """Open a bar for one test."""
        self._open(runner, "test", len(runner.test_dataloader))

    def after_test_iter(
        self, runner: RunnerProtocol, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Move on."""
        self._step("test")

    def after_test_epoch(
        self, runner: RunnerProtocol, metrics: dict[str, float] | None = None
    ) -> None:
        """Close the bar."""
        self._close("test")

    def after_run(self, runner: RunnerProtocol) -> None:
        """Close what is open when a run ends early."""
        for name in list(self._bars):
            self._close(name)


def _first_score(metrics: Mapping[str, Any]) -> tuple[str, float] | None:
    """Return mIoU with or without a prefix, else the first score."""
    named = sorted(metrics, key=lambda name: not name.endswith("mIoU"))
    return (named[0], float(metrics[named[0]])) if named else None


@contextmanager
def _lines_above_bar(logger: Any) -> Iterator[None]:
    with logging_redirect_tqdm(loggers=[logger]):
        for handler in logger.handlers:
            on_terminal = not isinstance(handler, logging.FileHandler) and handler.stream.isatty()
            if on_terminal:
                handler.addFilter(beside_bar)
        yield


@HOOKS.register_module()
class LoggerHook(MMLoggerHook):
    """Write a log line and the scalars every few iterations; never ends training.

    Lines are mmengine's. Scalars, IoU of each class among them, go to ``scalars.jsonl`` of the run
    folder (see ``logs``), to TensorBoard where it is installed, and to the visualizer's back ends.
    TensorBoard gets the hyper-parameters and some pictures of each validation, too.

    Args:
        interval: Iterations between two lines.
        ignore_last: Whether the last iterations of an epoch, fewer than an interval, get no line.
        interval_exp_name: Kept for mmengine's configs; the name is in the log's head.
        out_dir: Folder, local or remote, that the log is copied to when the run ends.
        out_suffix: Suffixes of the files that are copied.
        keep_local: Whether the copied files stay where they were, too.
        file_client_args: Older form of ``backend_args``.
        log_metric_by_epoch: Whether the back ends get validation scores by epoch.
        backend_args: Where ``out_dir`` is, as for ``LoadImageFromFile``.
        tensorboard: Whether to write TensorBoard's files where it is installed.
        images: How many images of each validation TensorBoard shows, label beside prediction.
    """

    def __init__(
        self,
        interval: int = 10,
        ignore_last: bool = True,
        interval_exp_name: int = 1000,
        out_dir: str | None = None,
        out_suffix: str | Sequence[str] = (".json", ".log", ".py", "yaml"),
        keep_local: bool = True,
        file_client_args: dict[str, Any] | None = None,
        log_metric_by_epoch: bool = True,
        backend_args: dict[str, Any] | None = None,
        *,
        tensorboard: bool = True,
        images: Natural = 2,
    ) -> None:
        super().__init__(
            interval=interval,
            ignore_last=ignore_last,
            interval_exp_name=interval_exp_name,
            out_dir=out_dir,
            out_suffix=out_suffix,
            keep_local=keep_local,
            file_client_args=file_client_args,
            log_metric_by_epoch=log_metric_by_epoch,
            backend_args=backend_args,
        )
        self.tensorboard, self.images = tensorboard, images
        self._drawn = 0
        self.curves: ScalarLog | None = None
        self._guard: LogGuard | None = None

    def before_train(self, runner: RunnerProtocol) -> None:
        """Go on with the curves where the run was left."""
        if processes.is_main():
            folder = Path(runner.work_dir)
            self.curves = ScalarLog(folder, runner.logger.warning, self.tensorboard)
            self.curves.resume(runner.iter)
            self._run_guarded(runner, lambda: self._describe(runner))

    def _describe(self, runner: RunnerProtocol) -> None:
        if self.curves is not None and self.curves.tensorboard:
            self.curves.describe(_hyper_parameters(runner), runner.config_text)

    def after_train_iter(
        self, runner: RunnerProtocol, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Write a line where one is due."""
        last = runner.iter + 1 == runner.max_iters
        end = self.end_of_epoch(runner.train_dataloader, batch_idx) and not self.ignore_last
        if self.every_n_inner_iters(batch_idx, self.interval) or last or end:
            if not torch.cuda.is_available():
                runner.message_hub.update_scalar("train/memory", peak_memory_mib())
            tag, line = runner.log_processor.get_log_after_iter(runner, batch_idx, "train")
            runner.logger.info(line, extra=UNLESS_BAR)
            self._write(runner, "train", runner.iter + 1, tag)

    def after_val_iter(
        self, runner: RunnerProtocol, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Write a line where one is due, and draw the first images for TensorBoard."""
        self._tell_progress(runner, batch_idx, "val")
        curves, self._drawn = self.curves, self._drawn if batch_idx else 0
        if curves is not None and curves.tensorboard and self._drawn < self.images:
            self._run_guarded(runner, lambda: self._draw(runner, curves, outputs))

    def _draw(self, runner: RunnerProtocol, curves: ScalarLog, outputs: Any) -> None:
        meta = getattr(runner.val_dataloader.dataset, "metainfo", None) or {}
        for sample in outputs or ():
            path = sample.get("img_path") if isinstance(sample, SegDataSample) else None
            if path is None or self._drawn == self.images or not meta.get("classes"):
                return
            picture = draw_sample(sample, Painter(meta["classes"], meta.get("palette"), 0.6))
            curves.add_image(f"val/{self._drawn}", picture, runner.iter)
            self._drawn += 1

    def after_test_iter(
        self, runner: RunnerProtocol, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Write a line where one is due."""
        self._tell_progress(runner, batch_idx, "test")

    def _tell_progress(self, runner: RunnerProtocol, batch_idx: int, mode: str) -> None:
        if self.every_n_inner_iters(batch_idx, self.interval):
            _, line = runner.log_processor.get_log_after_iter(runner, batch_idx, mode)
            runner.logger.info(line, extra=UNLESS_BAR)

    def after_val_epoch(
        self, runner: RunnerProtocol, metrics: dict[str, float] | None = None
    ) -> None:
        """Write the scores of a validation."""
        size = len(runner.val_dataloader)
        tag, line = runner.log_processor.get_log_after_epoch(runner, size, "val")
        runner.logger.info(line + beside_mean(unscored_by(runner.val_evaluator.metrics)))
        tag = {**tag, **_scores_of_classes(runner.val_evaluator.metrics)}
        step = runner.epoch if self.log_metric_by_epoch else runner.iter
        self._write(runner, "val", runner.iter, tag, step)

    def after_test_epoch(
        self, runner: RunnerProtocol, metrics: dict[str, float] | None = None
    ) -> None:
        """Write the scores of a test."""
        size = len(runner.test_dataloader)
        tag, line = runner.log_processor.get_log_after_epoch(
            runner, size, "test", with_non_scalar=True
        )
        runner.logger.info(line + beside_mean(unscored_by(runner.test_evaluator.metrics)))
        file = Path(runner.log_dir, str(self.json_log_path))
        text = json.dumps(tag, default=lambda value: getattr(value, "tolist", str)())
        self._run_guarded(runner, lambda: write_file(file, text))

    def _write(
        self,
        runner: RunnerProtocol,
        kind: str,
        step: int,
        tag: dict[str, Any],
        shown: int | None = None,
    ) -> None:
        if self.curves is not None:
            self.curves.write(kind, step, {**tag, "step": step})
        position = step if shown is None else shown
        self._run_guarded(runner, lambda: runner.visualizer.add_scalars(tag, position))

    def _run_guarded(self, runner: RunnerProtocol, action: Callable[[], Any]) -> None:
        if self._guard is None:
            self._guard = LogGuard("the log", runner.logger.warning)
        self._guard.run(action)

    def after_run(self, runner: RunnerProtocol) -> None:
        """Close the files, and copy them where that was asked for."""
        if self.curves is not None:
            self.curves.close()
        self._run_guarded(runner, lambda: super(LoggerHook, self).after_run(runner))


def _scores_of_classes(metrics: Sequence[Any]) -> dict[str, float]:
    """Return IoU of each class in percent by a name that every back end takes."""
    found = {}
    for metric in metrics:
        if isinstance(metric, IoUMetric) and "IoU" in metric.per_class:
            prefix = f"{metric.prefix}/" if metric.prefix else ""
            scores = zip(metric.classes, metric.per_class["IoU"].tolist(), strict=True)
            for name, score in scores:
                found[f"{prefix}IoU/{_NOT_IN_NAMES.sub('_', name)}"] = round(100 * score, 2)
    return {name: score for name, score in found.items() if math.isfinite(score)}


def _hyper_parameters(runner: RunnerProtocol) -> dict[str, Any]:
    """Return what is compared between runs: numbers, words and flags by name."""
    settings = describe_settings(runner)
    groups = settings["optimizer"].get("groups") or [{}]
    chosen = {key: groups[0].get(key) for key in ("lr", "momentum", "weight_decay")}
    names = ("max_iters", "batch_size", "processes", "accumulation", "dataset", "seed")
    chosen |= {key: settings[key] for key in names}
    chosen |= {"optimizer": settings["optimizer"].get("type"), "model": runner.model_name}
    network = processes.unwrap(runner.model)
    for name in ("backbone", "decode_head"):
        if hasattr(network, name):
            chosen[name] = type(getattr(network, name)).__name__
    return {key: v for key, v in chosen.items() if isinstance(v, bool | int | float | str)}


def draw_sample(sample: SegDataSample, painter: Painter, longest: int = 640) -> Image:
    """Draw label and prediction over their image, side by side.

    Args:
        sample: With ``img_path``; ``gt_sem_seg`` may be missing.
        painter: Of the data set's classes.
        longest: Longer side of each picture in px; larger images are shrunk first.
    """
    maps = [
        np.asarray(sample.get(key).data.cpu())[0].astype(np.int16)
        for key in ("gt_sem_seg", "pred_sem_seg")
        if key in sample
    ]
    image = read_rgb(sample.img_path)
    scale = min(1.0, longest / max(image.shape[:2]))
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    small = [np.asarray(cv2.resize(m, size, interpolation=cv2.INTER_NEAREST)) for m in maps]
    return side_by_side([painter.draw(image, each) for each in small], gap=8)


def peak_memory_mib() -> int:
    """Return the most memory that this process has held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _memory_mib() -> int:
    """Return the most memory that was in use, of the GPU where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() // 2**20
    return peak_memory_mib()


@HOOKS.register_module()
class SegVisualizationHook(Hook):
    """Draw labels and predictions of validation and test images.

    Args:
        draw: Whether to draw at all; ``show`` or ``show_dir`` imply it.
        interval: Draw every ``interval``-th batch. Without it every 50th, and with ``show_dir``
            every one.
        show: Open a window for each.
        wait_time: Seconds until the window closes, 0 for ever.
        backend_args: Where image files come from, as for ``LoadImageFromFile``.
        show_dir: Write PNGs here instead of handing pictures to the visualizer's back ends.
            Sub-folders of the images are kept, so that no two share a file; pictures drawn while
            training lie below ``iter_<n>/``.
    """

    def __init__(
        self,
        draw: bool = False,
        interval: int | None = None,
        *,
        show: bool = False,
        wait_time: float = 0.0,
        backend_args: dict[str, Any] | None = None,
        show_dir: str | None = None,
    ) -> None:
        self.draw = draw or show or show_dir is not None
        self.interval = interval or (1 if show_dir is not None else 50)
        self.show = show
        self.wait_time = wait_time
        self.backend_args = backend_args
        self.show_dir = show_dir
        self.warned = False

    def after_val_iter(
        self, runner: RunnerProtocol, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Draw the predictions of a validation batch; a full disk does not end a training."""
        try:
            self._after_iter(runner, batch_idx, data_batch, outputs, "val")
        except OSError as error:
            if not self.warned:
                runner.logger.warning(f"a picture cannot be written ({error}); the run goes on")
            self.warned = True

    def after_test_iter(
        self, runner: RunnerProtocol, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Draw the predictions of a test batch."""
        self._after_iter(runner, batch_idx, data_batch, outputs, "test")

    def _after_iter(
        self,
        runner: RunnerProtocol,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[SegDataSample] | None = None,
        mode: str = "train",
    ) -> None:
        if (
            mode == "train"
            or not self.draw
            or not self.every_n_inner_iters(batch_idx, self.interval)
        ):
            return
        dataset = getattr(runner, f"{mode}_dataloader").dataset
        root = image_root(dataset)
        for sample in outputs or ():
            name = prediction_name(sample.img_path, root)
            runner.visualizer.add_datasample(
                "_".join((mode, *name.with_suffix("").parts)),
                read_rgb(sample.img_path, self.backend_args),
                data_sample=sample,
                show=self.show,
                wait_time=self.wait_time,
                out_file=self._file(name, mode, runner.iter),
                step=runner.iter,
            )

    def _file(self, name: Path, mode: str, iteration: int) -> Path | None:
        if self.show_dir is None:
            return None
        return Path(self.show_dir, f"iter_{iteration}" if mode == "val" else "", name)


def read_rgb(path: str, backend_args: dict[str, Any] | None = None) -> Image:
    """Read an image file as RGB (H, W, 3), turned as its EXIF tag says, as the pipelines do.

    Raises:
        DataError: If it cannot be decoded.
    """
    content = np.frombuffer(fileio.get(path, backend_args=backend_args), np.uint8)
    image = cv2.imdecode(content, cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"{path}: is no image that can be decoded")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
