"""A look at a few labels before the first iteration."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from nlseg.bounds import Natural
from nlseg.doctor.quick import quick_check
from nlseg.registry import HOOKS


@HOOKS.register_module()
class DataCheckHook(Hook):
    """Stop before training what cannot end well: stray labels, painted masks, other sizes.

    Left out by ``default_hooks = dict(data_check=None)``.

    Args:
        limit: How many pairs of files to look at in each data set, evenly spaced.
    """

    priority = "VERY_HIGH"

    def __init__(self, limit: Natural = 32) -> None:
        self.limit = limit

    def before_train(self, runner: Any) -> None:
        """Check the training and the validation set.

        Raises:
            DataError: Names the cause, the files and the remedy; on every process the same.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        num_classes = getattr(getattr(model, "decode_head", None), "num_classes", None)
        names = ["train"] if getattr(runner, "val_loop", None) is None else ["train", "val"]
        for name in names:
            dataset = getattr(runner, f"{name}_dataloader").dataset
            for finding in quick_check(dataset, num_classes, limit=self.limit, name=name):
                runner.logger.warning(finding.as_text())
