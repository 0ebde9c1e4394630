"""The loops of validation and test: every image once, and the scores."""

import contextlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.runner import BaseLoop
from mmengine.structures import BaseDataElement
from torch import Tensor
from torch.utils.data import DataLoader

from nlseg.errors import ConfigError
from nlseg.evaluation.iou import IoUMetric
from nlseg.evaluation.prediction_files import root_of_shared_names
from nlseg.models import SegDataPreProcessor, fuse_conv_bn
from nlseg.pictures import open_picture
from nlseg.registry import LOOPS
from nlseg.run import processes
from nlseg.run.device import compile_network
from nlseg.run.folder import is_seen_by_all
from nlseg.run.half import HalfName, check_half, half_precision
from nlseg.run.loaders import batch_size_of, every_batch
from nlseg.run.protocol import RunnerProtocol, require_own_runner

_CHECK_EVERY = 10
_HEADERS, _SIZES = 2000, 8
_FORWARD = SegDataPreProcessor.forward


class EvalLoop(BaseLoop):
    """What validation and test share: predict every image, score the predictions.

    Args:
        runner: The runner.
        dataloader: The loader or its config.
        evaluator: The evaluator or its config.
        fp16: Predict under autocast.
        dtype: 'float16' or 'bfloat16' for it; PyTorch's choice for the device when not given.
    """

    mode: Literal["val", "test"]

    def __init__(
        self,
        runner: RunnerProtocol,
        dataloader: DataLoader | dict,
        evaluator: Evaluator | dict | Sequence,
        fp16: bool = False,
        dtype: HalfName | None = None,
    ) -> None:
        require_own_runner(runner)
        super().__init__(runner, runner.build_dataloader(dataloader, seed=runner.seed))
        self.evaluator = runner.build_evaluator(evaluator)
        _collect_without_files(self.evaluator.metrics)
        meta = getattr(self.dataloader.dataset, "metainfo", None)
        self.evaluator.dataset_meta = runner.visualizer.dataset_meta = meta
        self.fp16, self.dtype = fp16, check_half(dtype)
        self._losses: dict[str, list[float]] = defaultdict(list)
        refuse_mixed_sizes(runner.model, self.dataloader, f"{self.mode}_dataloader")

    def run(self) -> dict[str, float]:
        """Predict all images and return the scores."""
        runner, mode = self.runner, self.mode
        runner.call_hook(f"before_{mode}")
        runner.call_hook(f"before_{mode}_epoch")
        self.prepare()
        runner.model.eval()
        self._losses.clear()
        searches = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = False  # images of many sizes: each would be searched for
        try:
            for idx, batch in enumerate(every_batch(self.dataloader, runner.logger.warning)):
                self.run_iter(idx, batch)
        finally:
            torch.backends.cudnn.benchmark = searches
        metrics: dict[str, float] = self.evaluator.evaluate(len(self.dataloader.dataset))
        metrics.update(_mean_losses(self._losses, mode))
        runner.call_hook(f"after_{mode}_epoch", metrics=metrics)
        runner.call_hook(f"after_{mode}")
        return metrics

    def prepare(self) -> None:
        """Do what a validation or a test needs before the first image."""

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Predict and score one batch.

        Args:
            idx: Its number.
            data_batch: What the loader yields.
        """
        runner, mode = self.runner, self.mode
        runner.call_hook(f"before_{mode}_iter", batch_idx=idx, data_batch=data_batch)
        step = runner.model.val_step if mode == "val" else runner.model.test_step
        with half_precision(self.fp16, self.dtype):
            outputs = step(data_batch)
        outputs = self._without_losses(outputs)
        self.evaluator.process(data_samples=outputs, data_batch=data_batch)
        runner.call_hook(
            f"after_{mode}_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs
        )

    def _without_losses(self, outputs: Any) -> Any:
        """Take off, and note, the losses that a model may give as the last of its predictions."""
        last = outputs[-1] if isinstance(outputs, Sequence) and outputs else None
        if not isinstance(last, BaseDataElement) or last.keys() != ["loss"]:
            return outputs
        for name, value in last.loss.items():
            parts = [value] if isinstance(value, Tensor) else value
            self._losses[name] += [part.item() for part in parts]
        return outputs[:-1]


def _collect_without_files(metrics: Sequence[Any]) -> None:
    """Let mmengine's metrics gather their results in memory where nodes share no folder.

    By default they hand them over as files in the current folder.
    """
    mmengines = [m for m in metrics if type(m).evaluate is BaseMetric.evaluate]
    by_files = [m for m in mmengines if m.collect_device == "cpu" and m.collect_dir is None]
    if by_files and not is_seen_by_all(Path.cwd()):
        for metric in by_files:
            metric.collect_device = "gpu"  # mmengine's name for it; on CPUs it is gloo


def refuse_mixed_sizes(model: torch.nn.Module, loader: DataLoader, where: str) -> None:
    """Refuse, before anything is trained, batches of images that cannot be joined.

    The headers of up to 2,000 files are read, on process 0; where they tell of several sizes, one
    image of each goes through the pipeline.

    Args:
        model: One with a preprocessor of its own may join what it likes.
        loader: Of a validation or a test.
        where: Its place in the config.

    Raises:
        ConfigError: Images of a batch come out in several sizes.
    """
    joins = getattr(processes.unwrap(model), "data_preprocessor", None)
    own = isinstance(joins, SegDataPreProcessor) and type(joins).forward is _FORWARD
    refusal = ""
    if batch_size_of(loader) > 1 and own:
        if processes.is_main():
            sizes = _sizes_that_come_out(loader.dataset)
            if len(sizes) > 1:
                (one, first), (other, second) = list(sizes.items())[:2]
                refusal = (
                    f"{where}.batch_size: is {batch_size_of(loader)}, but images come out of the "
                    f"pipeline in several sizes: {first} as {one}, {second} as {other}; use "
                    "batch_size=1, or a pipeline that ends in one size"
                )
        if refusal := processes.broadcast_text(refusal):
            raise ConfigError(refusal)


def _sizes_that_come_out(dataset: Any) -> dict[str, str]:
    """Return a file for each size, after the pipeline, of images whose files differ in size."""
    entry = getattr(dataset, "get_data_info", None)
    if entry is None:
        return {}
    found: dict[tuple[int, int], int] = {}
    for index in range(0, len(dataset), max(len(dataset) // _HEADERS, 1)):
        with (
            contextlib.suppress(OSError, ValueError, KeyError),
            open(entry(index)["img_path"], "rb") as file,
            open_picture(file) as image,
        ):
            found.setdefault(image.size, index)
    sizes: dict[str, str] = {}
    for index in list(found.values())[:_SIZES] if len(found) > 1 else ():
        inputs = dataset[index]["inputs"]
        views = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        shape = ", ".join("x".join(map(str, view.shape[-2:])) for view in views)
        sizes.setdefault(shape, Path(entry(index)["img_path"]).name)
    return sizes


def _mean_losses(losses: Mapping[str, Sequence[float]], mode: str) -> dict[str, float]:
    """Return the mean of each loss, and the sum of those as ``val_loss`` or ``test_loss``."""
    means = {name: sum(values) / len(values) for name, values in losses.items()}
    total = sum(value for name, value in means.items() if "loss" in name)
    return {**means, f"{mode}_loss": total} if means else {}


@LOOPS.register_module()
class ValLoop(EvalLoop):
    """Validate once over the images; a request to stop is heard between them.

    Args:
        runner: The runner.
        dataloader: The validation loader or its config.
        evaluator: The evaluator or its config.
        fp16: Predict under autocast.
        dtype: 'float16' or 'bfloat16' for it; PyTorch's choice for the device when not given.
    """

    mode = "val"

    def __init__(
        self,
        runner: RunnerProtocol,
        dataloader: DataLoader | dict,
        evaluator: Evaluator | dict | Sequence,
        fp16: bool = False,
        dtype: HalfName | None = None,
    ) -> None:
        super().__init__(runner, dataloader, evaluator, fp16, dtype)
        share = len(self.dataloader.dataset) // runner.world_size
        self._common = share // batch_size_of(self.dataloader)  # batches that every process has

    def prepare(self) -> None:
        """Validate with the running statistics that are saved."""
        processes.share_buffers(self.runner.model)

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Predict and score one batch, and stop after it where that was asked for."""
        control = self.runner.control
        control.watch("validation")
        super().run_iter(idx, data_batch)
        alone = self.runner.world_size == 1
        if alone or (idx < self._common and (idx + 1) % _CHECK_EVERY == 0):
            control.leave_validation_if_asked()


@LOOPS.register_module()
class TestLoop(EvalLoop):
    """Test once over the images.

    Args:
        runner: The runner.
        dataloader: The test loader or its config.
        evaluator: The evaluator or its config.
        fp16: Predict under autocast.
        dtype: 'float16' or 'bfloat16' for it; PyTorch's choice for the device when not given.
        fold_norms: Fold batch norms into the convolutions in front of them before the test. The
            model cannot train afterwards.
        compile: Compile the network: True, or arguments of ``torch.compile``.
    """

    mode = "test"

    def __init__(
        self,
        runner: RunnerProtocol,
        dataloader: DataLoader | dict,
        evaluator: Evaluator | dict | Sequence,
        fp16: bool = False,
        dtype: HalfName | None = None,
        fold_norms: bool = False,
        compile: bool | dict | None = None,
    ) -> None:
        super().__init__(runner, dataloader, evaluator, fp16, dtype)
        self.fold_norms = fold_norms
        self.compile = compile

    def prepare(self) -> None:
        """Fold norms and compile where that was asked for."""
        if self.fold_norms:
            fuse_conv_bn(self.runner.model)
        compile_network(self.runner.model, self.compile)


def choose_files(metrics: Sequence[Any], dataset: Any, folder: Path) -> None:
    """Tell the metrics where their files go, as far as the config has not told them.

    Args:
        metrics: Those of the test; each ``IoUMetric`` gets ``per_class.json`` in the folder, with
            its prefix in the name where it has one, and, for data sets with images of one name in
            several folders, the folder above them, so that predictions keep the sub-folders.
        dataset: The data set that is tested on.
        folder: Where the log and the scores of this test lie.
    """
    for metric in metrics:
        if not isinstance(metric, IoUMetric):
            continue
        if metric.per_class_file is None:
            name = "_".join(("per_class", *filter(None, (metric.prefix,))))
            metric.per_class_file = str(folder / f"{name.replace('/', '_')}.json")
        if metric.output_dir is not None and metric.img_root is None:
            metric.img_root = root_of_shared_names(dataset)
