"""A pipeline: transforms in a row, or in several views of one image."""

import copy
from collections.abc import Mapping, Sequence, Sized
from types import FunctionType
from typing import Any, Literal, get_args

from mmcv.transforms import BaseTransform

from nlseg.bounds import Probability
from nlseg.datasets.transforms.draws import rng_of
from nlseg.datasets.transforms.fused import Step
from nlseg.datasets.transforms.fused import fuse as fuse_steps
from nlseg.errors import ConfigError
from nlseg.registry import TRANSFORMS
from nlseg.structures import Sample


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


FuseMode = Literal["exact", "fast", "off"]


def is_foreign(step: Any) -> bool:
    """Return whether a transform, or one inside it, is neither ours nor mmcv's."""
    if isinstance(step, list | tuple):
        return any(map(is_foreign, step))
    kind = step if isinstance(step, FunctionType | type) else type(step)
    if str(kind.__module__).partition(".")[0] not in ("nlseg", "mmcv"):
        return True
    parts = (getattr(step, name, None) for name in ("transforms", "steps"))
    inside = (part for part in parts if isinstance(part, list | tuple) or callable(part))
    return any(map(is_foreign, inside))


class Compose:
    """Apply transforms one after the other.

    ``transforms`` lists them as the config does, ``steps`` what is carried out;
    ``has_foreign_steps`` says whether a user's transform is among them.

    Args:
        transforms: Callables, or configs of registered transforms.
        fuse: Whether a random resize, crop and flip in a row are done in one step: ``exact`` gives
            the same pixels as without, ``fast`` pixels that are at most one level off, ``off``
            does every transform by itself.

    Raises:
        ConfigError: An entry is neither callable nor a config, or ``fuse`` is unknown.
    """

    def __init__(
        self, transforms: Sequence[Mapping[str, Any] | Step] | None, fuse: FuseMode = "off"
    ) -> None:
        if fuse not in get_args(FuseMode):
            choices = ", ".join(get_args(FuseMode))
            raise ConfigError(f"pipeline: fuse={fuse!r} is not one of {choices}")
        self.transforms: list[Step] = []
        for item in transforms or ():
            if isinstance(item, Mapping):
                self.transforms.append(TRANSFORMS.build(dict(item)))
            elif callable(item):
                self.transforms.append(item)
            else:
                raise ConfigError(f"pipeline: {item!r} is neither a dict nor a callable")
        self.has_foreign_steps = any(map(is_foreign, self.transforms))
        self.steps = self.transforms if fuse == "off" else fuse_steps(self.transforms, fuse)

    def __call__(self, sample: Sample) -> Any:
        """Return the transformed sample, or None as soon as one transform gives None."""
        result: Any = sample
        for step in self.steps:
            result = step(result)
            if result is None:
                return None
        return result

    def __repr__(self) -> str:
        """List the transforms, one a line."""
        return "Compose(\n    " + "\n    ".join(map(repr, self.steps)) + "\n)"


def describe_pipelines(datasets: Mapping[str, Any]) -> str:
    """Tell what data sets do with a sample: a line for each set, one for each transform.

    Args:
        datasets: Data sets, also joined or repeated ones, by what they are used for.

    Returns:
        Text of several lines; a transform tells what it was given, one that fuses others which.
    """
    lines = []
    for use, dataset in datasets.items():
        for part in _parts(dataset):
            images = f", {len(part)} images" if isinstance(part, Sized) else ""
            lines.append(f"{use}: {type(part).__name__}{images}")
            pipeline = getattr(part, "pipeline", None)
            given = getattr(pipeline, "transforms", ())
            fused = [step for step in getattr(pipeline, "steps", ()) if step not in given]
            lines += [f"    {_told(step)}" for step in given]
            lines += [f"    in one step: {step!r}" for step in fused]
    return "\n".join(lines)


def _parts(dataset: Any) -> list[Any]:
    """List the data sets inside of a joined or repeated one; a plain one is its only part."""
    inner = getattr(dataset, "datasets", None) or [getattr(dataset, "dataset", None)]
    return [leaf for part in inner if part is not None for leaf in _parts(part)] or [dataset]


def _told(step: Step) -> str:
    """Return the call that makes a transform, or just its name where it tells no more."""
    text = repr(step)
    name = getattr(step, "__name__", type(step).__name__)
    return f"{name}()" if text.startswith("<") else text


Nested = Mapping[str, Any] | Step | Sequence[Mapping[str, Any] | Step]


def _compose(steps: Nested) -> Compose:
    alone = isinstance(steps, Mapping) or not isinstance(steps, Sequence)
    return Compose([steps] if alone else steps)  # type: ignore[list-item,arg-type]


@TRANSFORMS.register_module()
class RandomChoice(BaseTransform):
    """Apply one of several pipelines, drawn for each sample.

    Args:
        transforms: The pipelines: transforms or lists of them.
        prob: Probability of each; None for the same.

    Raises:
        ConfigError: There are no pipelines, or not one probability for each with a sum of 1.
    """

    def __init__(
        self, transforms: Sequence[Nested], prob: Sequence[Probability] | None = None
    ) -> None:
        if len(transforms) == 0:
            raise ConfigError("RandomChoice.transforms: no pipeline to choose from")
        if prob is not None and (len(prob) != len(transforms) or abs(sum(prob) - 1) > 1e-6):
            raise ConfigError(
                f"RandomChoice.prob: {list(prob)}; give one probability for each of the "
                f"{len(transforms)} pipelines, with a sum of 1"
            )
        self.prob = prob
        self.transforms = [_compose(steps) for steps in transforms]

    def transform(self, sample: Sample) -> Any:
        """Draw a pipeline and return what it gives."""
        return self.transforms[int(rng_of(sample).choice(len(self.transforms), p=self.prob))](
            sample
        )


@TRANSFORMS.register_module()
class RandomApply(BaseTransform):
    """Apply a pipeline to some of the samples.

    Args:
        transforms: The pipeline: a transform or a list of them.
        prob: Probability that it is applied.
    """

    def __init__(self, transforms: Nested, prob: Probability = 0.5) -> None:
        self.prob = prob
        self.transforms = _compose(transforms)

    def transform(self, sample: Sample) -> Any:
        """Draw whether to apply the pipeline; return what it gives, or the sample as it is."""
        return self.transforms(sample) if rng_of(sample).rand() < self.prob else sample
