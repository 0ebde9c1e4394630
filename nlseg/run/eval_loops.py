"""Evaluation loops: every image once, with a request to stop heard in between."""

from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import Evaluator
from mmengine.runner import TestLoop as MMTestLoop
from mmengine.runner import ValLoop as MMValLoop
from mmengine.runner.loops import _parse_losses
from torch.utils.data import DataLoader

from nlseg.models import fuse_conv_bn
from nlseg.registry import LOOPS
from nlseg.run import distributed
from nlseg.run.half import HalfName, check_half, half_precision
from nlseg.run.loaders import batch_size_of

_CHECK_EVERY = 10


@LOOPS.register_module()
class ValLoop(MMValLoop):
    """Validate once over the images; a request to stop is heard between them.

    Args:
        runner: The runner.
        dataloader: The validation loader or its config.
        evaluator: The evaluator or its config.
        fp16: Predict under autocast.
        dtype: 'float16' or 'bfloat16' for it; PyTorch's choice for the device when not given.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: DataLoader | dict,
        evaluator: Evaluator | dict | list,
        fp16: bool = False,
        dtype: HalfName | None = None,
    ) -> None:
        super().__init__(runner, dataloader, evaluator, fp16)
        self.dtype = check_half(dtype)

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """Predict and score one batch."""
        with half_precision(self.fp16, self.dtype):
            super().run_iter(idx, data_batch)

    def run(self) -> dict[str, float]:
        """Predict all images and return the scores."""
        runner = self.runner
        runner.call_hook("before_val")
        runner.call_hook("before_val_epoch")
        distributed.share_buffers(runner.model)
        runner.model.eval()
        self.val_loss.clear()
        common = len(self.dataloader.dataset) // runner.world_size // batch_size_of(self.dataloader)
        for idx, batch in enumerate(self.dataloader):
            runner.control.watch("validation")
            self.run_iter(idx, batch)
            alone = runner.world_size == 1
            if alone or (idx < common and (idx + 1) % _CHECK_EVERY == 0):
                runner.control.leave_validation_if_asked()
        metrics: dict[str, float] = self.evaluator.evaluate(len(self.dataloader.dataset))
        if self.val_loss:
            metrics.update(_parse_losses(self.val_loss, "val"))
        runner.call_hook("after_val_epoch", metrics=metrics)
        runner.call_hook("after_val")
        return metrics


@LOOPS.register_module()
class TestLoop(MMTestLoop):
    """Test once over the images.

    Args:
        runner: The runner.
        dataloader: The test loader or its config.
        evaluator: The evaluator or its config.
        fp16: Predict under autocast.
        dtype: 'float16' or 'bfloat16' for it; PyTorch's choice for the device when not given.
        fold_norms: Fold batch norms into the convolutions in front of them before the test. The
            model cannot train afterwards.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: DataLoader | dict,
        evaluator: Evaluator | dict | Sequence,
        fp16: bool = False,
        dtype: HalfName | None = None,
        fold_norms: bool = False,
    ) -> None:
        super().__init__(runner, dataloader, evaluator, fp16)
        self.dtype = check_half(dtype)
        self.fold_norms = fold_norms

    def run(self) -> dict[str, float]:
        """Predict all images and return the scores."""
        if self.fold_norms:
            fuse_conv_bn(self.runner.model)
        scores: dict[str, float] = super().run()
        return scores

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """Predict and score one batch."""
        with half_precision(self.fp16, self.dtype):
            super().run_iter(idx, data_batch)
