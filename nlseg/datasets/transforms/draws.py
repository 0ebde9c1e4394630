"""Where a transform's random numbers come from: the only place that knows."""

from numpy.random import RandomState, mtrand

from nlseg.structures import Sample


def rng_of(sample: Sample) -> RandomState:
    """Return the sample's own generator, or numpy's global one where the sample has none."""
    own = sample.get("rng")
    if own is not None:
        return own  # type: ignore[no-any-return]
    return mtrand._rand
