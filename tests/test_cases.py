"""A test over many cases fails for each that fails, and names it."""

from pathlib import Path

import pytest

from tests.cases import each_case


def test_every_case_is_run_and_each_failure_named(tmp_path: Path) -> None:
    tried = []

    @each_case("second", [1, 2])
    @each_case("word, first", [("a", 1), ("b", 2), ("c", 3)])
    def test(word: str, first: int, second: int, tmp_path: Path) -> None:
        tried.append((word, second))
        assert list(tmp_path.iterdir()) == []
        (tmp_path / "file").touch()
        if word == "c":
            pytest.skip("not this one")
        if word == "b":
            with pytest.raises(ValueError, match="absent"):
                assert second == 1

    with pytest.raises(AssertionError) as caught:
        test(tmp_path=tmp_path)
    assert tried == [("a", 1), ("b", 1), ("c", 1), ("a", 2), ("b", 2), ("c", 2)]
    said = str(caught.value)
    assert said.startswith(
        "2 of 2 cases failed:\n[second=1] 1 of 3 cases failed:\n[word='b', first=2] "
    )
    assert "\n[second=2] 1 of 3 cases failed:\n[word='b', first=2] assert 2 == 1" in said
    assert "[word='a'" not in said


def test_nothing_to_run_is_no_success() -> None:
    with pytest.raises(AssertionError, match="no case of word"):
        each_case("word", [])

    @each_case("word", ["a", "b"])
    def test(word: str) -> None:
        pytest.skip("nor this one")

    with pytest.raises(pytest.skip.Exception):
        test()
