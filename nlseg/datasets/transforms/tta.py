"""Test-time augmentation: one sample, several views of it."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

from mmcv.transforms import BaseTransform

from nlseg.errors import ConfigError
from nlseg.registry import TRANSFORMS
from nlseg.structures import Sample

Step = Callable[[Any], Any]


@TRANSFORMS.register_module()
class TestTimeAug(BaseTransform):
    """Run every combination of alternative transforms and give the results as lists.

    Views come in the order of nested loops, the first list outermost. What two views have in
    common at their beginning, such as the resized image, is computed once.

    Args:
        transforms: For each step of the pipeline, the list of its alternatives.

    Raises:
        ConfigError: A step has no alternative or is not a list.
    """

    __test__ = False  # pytest: no test class in spite of its name

    def __init__(self, transforms: Sequence[Sequence[dict[str, Any] | Step]]) -> None:
        for step in transforms:
            if not isinstance(step, Sequence) or len(step) == 0:
                raise ConfigError(
                    f"TestTimeAug.transforms: {step!r} is not a list of alternative transforms"
                )
        self.steps: list[list[Step]] = [
            [TRANSFORMS.build(item) if isinstance(item, dict) else item for item in step]
            for step in transforms
        ]

    def transform(self, sample: Sample) -> dict[str, list[Any]]:
        """Return the packed views under the keys of one, each value a list over the views."""
        views = self.views(sample, self.steps)
        return {key: [view[key] for view in views] for key in views[0]}

    def views(self, sample: Any, steps: list[list[Step]]) -> list[Any]:
        """Apply the remaining steps to copies of a sample."""
        if not steps:
            return [sample]
        alternatives, rest = steps[0], steps[1:]
        return [
            view
            for apply in alternatives
            for view in self.views(apply(copy.deepcopy(sample)), rest)
        ]
