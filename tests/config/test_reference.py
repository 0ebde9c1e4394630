"""The printed arguments of a class are those that are checked, and each has a meaning."""

import inspect

import pytest

from nlseg.config.reference import describe, meanings_of
from nlseg.config.signatures import signature_of
from nlseg.errors import UserError
from tests.config.test_own_and_foreign_classes import our_classes


def test_arguments_come_with_types_ranges_defaults_and_meaning() -> None:
    lines = describe("NLHead").splitlines()
    assert lines[0] == "NLHead (model): nlseg.models.heads.non_local.NLHead"
    assert "dropout_ratio: a number, -1 or in [0, 1); default 0.1" in lines
    assert "num_classes: a whole number, at least 1; has to be given" in lines
    where = lines.index("kernel_size: a whole number, at least 1; default 3")
    assert lines[where + 1] == "    Side of their kernels."
    modes = "'gaussian', 'embedded_gaussian', 'dot_product', 'concatenation'"
    assert f"mode: one of {modes}; default 'embedded_gaussian'" in lines


def test_classes_of_others_are_told_too_and_a_misspelt_name_has_a_neighbour() -> None:
    assert "power: a number; default 1.0" in describe("PolyLR")
    with pytest.raises(UserError, match=r"no registry holds 'NLHaed'; did you mean 'NLHead'\?"):
        describe("NLHaed")


def test_every_argument_of_our_classes_has_a_meaning() -> None:
    for built in our_classes():
        wanted = set(signature_of(built).hints)
        if hasattr(built, "hands_on_to"):  # arguments of another class, which says what they mean
            wanted &= inspect.signature(built).parameters.keys()
        assert wanted <= meanings_of(built).keys(), (built, wanted - meanings_of(built).keys())
