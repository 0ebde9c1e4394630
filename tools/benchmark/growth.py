"""How time and memory grow with the input: the exponent of a power law through four sizes."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmark.measure import Plan, measure
from benchmark.suite import Growth


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Fit value = c * size ** e by least squares of the logarithms.

    Args:
        sizes: At least two sizes, above 0.
        values: A value for each, above 0.

    Returns:
        The exponent e.
    """
    slope, _ = np.polyfit(np.log(np.asarray(sizes)), np.log(np.asarray(values)), 1)
    return float(slope)


def measure_growth(growth: Growth, plan: Plan) -> dict[str, Any]:
    """Measure the work at every size and fit.

    Args:
        growth: The work.
        plan: How to measure.

    Returns:
        ``name``, for each way sizes in positions, seconds, bytes and both exponents, which are None
        where fewer than two sizes could be measured; and how the last way compares with the first
        one at its own largest size, to which the first is extrapolated where need be.
    """
    ways: dict[str, Any] = {}
    for way, sizes in growth.sizes.items():
        points = []
        for size in sizes:
            builder = partial(growth.build, way, plan.device, size=size)
            result = measure({way: builder}, plan)[way]
            if result.failure is None:
                points.append((size[0] * size[1], result.median_s, result.memory))
        ways[way] = fit(points)
    names = list(growth.sizes)
    return {
        "name": growth.name,
        "ways": ways,
        "at_largest": compare(ways[names[0]], ways[names[-1]]),
    }


def compare(first: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Compare two fits at the largest size of the second one."""
    if not other["positions"] or first["time_exponent"] is None:
        return {}
    size = other["positions"][-1]
    return {
        "positions": size,
        "extrapolated": size not in first["positions"],
        "time_ratio": other["times_s"][-1] / value_at(first, "time", size),
        "memory_ratio": other["memory"][-1] / value_at(first, "memory", size),
    }


def value_at(fitted: dict[str, Any], kind: str, size: float) -> float:
    """Return the seconds ('time') or bytes ('memory') at a size, measured or by the power law.

    The law goes through the largest size that was measured.
    """
    values = fitted["times_s" if kind == "time" else "memory"]
    if size in fitted["positions"]:
        return float(values[fitted["positions"].index(size)])
    grown = (size / fitted["positions"][-1]) ** (fitted[f"{kind}_exponent"] or 0.0)
    return float(values[-1] * grown)


def fit(points: Sequence[tuple[float, float | None, int | None]]) -> dict[str, Any]:
    """Fit both exponents to points (positions, seconds, bytes)."""
    positions = [p for p, _, _ in points]
    times = [t or 0.0 for _, t, _ in points]
    memory = [m or 0 for _, _, m in points]
    return {
        "positions": positions,
        "times_s": times,
        "memory": memory,
        "time_exponent": _fit(positions, times),
        "memory_exponent": _fit(positions, memory),
    }


def _fit(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    if len(sizes) < 2 or min(values) <= 0:
        return None
    return exponent(sizes, values)
