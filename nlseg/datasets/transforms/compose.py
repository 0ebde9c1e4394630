"""A pipeline: transforms in a row."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

from nlseg.datasets.transforms.fused import fuse as fuse_steps
from nlseg.errors import ConfigError
from nlseg.registry import TRANSFORMS
from nlseg.structures import Sample

Step = Callable[[Any], Any]

FuseMode = Literal["exact", "fast", "off"]


class Compose:
    """Apply transforms one after the other.

    ``transforms`` lists them as the config does, ``steps`` what is carried out.

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
