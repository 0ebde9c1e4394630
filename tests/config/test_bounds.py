"""Ranges by hand: which numbers lie inside, and how they are told."""

from collections.abc import Sequence
from typing import Annotated, Any

from nlseg.bounds import (
    ABOVE_0,
    AT_LEAST_1,
    BELOW_1,
    LOW_HIGH,
    SHARE,
    Positive,
    Range,
    broken_claim,
    mismatches,
)
from tests.cases import each_case


@each_case(
    "claim, inside, outside, words, broken",
    [
        (AT_LEAST_1, [1, 1.0, 9], [0.99, 0, -1], "at least 1", "below 1"),
        (ABOVE_0, [1e-9, 3], [0, 0.0, -1], "above 0", "not above 0"),
        (SHARE, [0, 0.5, 1], [-0.01, 1.01], "in [0, 1]", "outside [0, 1]"),
        (BELOW_1, [0, 0.99], [1, 1.0, -1], "in [0, 1)", "outside [0, 1)"),
        (Range(0, 1, open_low=True), [0.01, 1], [0, 2], "in (0, 1]", "outside (0, 1]"),
        (Range(1, 4), [1, 4], [0, 5], "in 1..4", "outside 1..4"),
        (Range(0, 1, open_high=True, also=-1), [-1, 0, 0.5], [-0.5, 1, -2], "-1 or in [0, 1)",
         "outside [0, 1) and not -1"),
        (LOW_HIGH, [(1, 2), (1, 1), 5], [(2, 1)], "(low, high) with low <= high",
         "not (low, high) with low <= high"),
    ],
)  # fmt: skip
def test_ranges(claim: Any, inside: list[Any], outside: list[Any], words: str, broken: str) -> None:
    assert all(map(claim.holds, inside))
    assert not any(map(claim.holds, outside))
    assert (claim.words, claim.broken) == (words, broken)


def test_what_is_no_number_is_not_judged() -> None:
    assert AT_LEAST_1.holds(None)
    assert AT_LEAST_1.holds("a file")
    assert AT_LEAST_1.holds(False)
    assert not AT_LEAST_1.holds([(3, 0)])


@each_case(
    "value, hint, is_right",
    [
        ([1, 0], list, True),
        ([1, 0], Sequence[Positive], False),
        ((1, 0), tuple[Positive, float], True),
        ((0, 1), tuple[Positive, ...], False),
        (0, Positive | None, False),
        (None, Positive | None, True),
        (-5, Positive | Annotated[int, Range(-9)], True),
        ("0", Positive | str, True),
    ],
)
def test_ranges_stand_inside_of_hints(value: object, hint: Any, is_right: bool) -> None:
    assert (broken_claim(value, hint) is None) == is_right
    assert (list(mismatches(value, hint)) == []) == is_right
