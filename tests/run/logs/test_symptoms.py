"""What is said of a training that goes wrong, and that nothing is said of one that does not."""

import io
import math
import random
import sys
from pathlib import Path

import pytest
import torch

from nlseg.run.symptoms import (
    loss_that_does_not_fall,
    never_predicted,
    rate_that_explodes,
    read_notes,
)
from tests.cases import each_case
from tests.report.test_hook import with_validation
from tests.run.runs import go_on, train
from tests.run.toy import toy_config

Curve = list[tuple[int, float]]


def curve(values: list[float], every: int = 50) -> Curve:
    return [((i + 1) * every, value) for i, value in enumerate(values)]


def noisy(values: list[float], noise: float, seed: int = 0) -> list[float]:
    rng = random.Random(seed)
    return [value * (1 + noise * rng.uniform(-1, 1)) for value in values]


def test_class_is_missing_from_half_of_the_training_on() -> None:
    counts = torch.tensor([[5, 0, 1], [3, 0, 0], [0, 0, 0]])
    classes = ["a", "b", "c"]  # c is not labelled
    assert never_predicted(counts, None, classes, 0.5) == ["b"]
    assert never_predicted(counts, counts, classes, 1.0) == ["b"]
    assert never_predicted(counts, None, classes, 0.49) == []
    there = torch.tensor([[5, 1, 0], [0, 2, 0], [0, 0, 0]])
    assert never_predicted(counts, there, classes, 1.0) == []  # it was, at the validation before
    assert never_predicted(there, None, classes, 1.0) == []
    with_ignored = torch.zeros(4, 4, dtype=torch.int64)
    with_ignored[:3, :3] = counts
    assert never_predicted(with_ignored, None, classes, 1.0) == ["b"]


def test_flat_loss_is_named_and_a_falling_one_is_not() -> None:
    flat = curve(noisy([2.0] * 30, 0.01))
    said = loss_that_does_not_fall(flat)
    assert said is not None
    assert "does not fall: " in said
    assert "of 1500 iterations" in said
    falling = curve(noisy([2.0 / (1 + i / 10) for i in range(30)], 0.1))
    assert loss_that_does_not_fall(falling) is None
    rising = curve([1.0 + i / 30 for i in range(30)])
    assert loss_that_does_not_fall(rising) is not None


@each_case("seed", range(20))
def test_normal_curves_are_silent_at_every_validation(seed: int) -> None:
    rng = random.Random(seed)
    length, start = rng.randint(12, 200), rng.uniform(0.5, 5)
    floor, speed = start * rng.uniform(0.05, 0.5), rng.uniform(0.02, 0.3)
    values = noisy([floor + (start - floor) * math.exp(-speed * i) for i in range(length)], 0.05)
    losses = curve(values)
    peak = rng.randint(1, length // 2)  # a warm-up of up to half of the run, then a decay
    rates = curve([0.01 * min((i + 1) / peak, 1 - i / (length + 1)) for i in range(length)])
    for end in range(1, length + 1):
        fell = values[end - 1] < 0.8 * values[0] or speed * end > 2
        if fell:
            assert loss_that_does_not_fall(losses[:end]) is None
        assert rate_that_explodes(losses[:end], rates[:end]) is None


def test_short_runs_are_silent() -> None:
    for values, every in (([2.0] * 11, 50), ([2.0] * 30, 3), ([], 1)):
        losses = curve(values, every)
        assert loss_that_does_not_fall(losses) is None
        assert rate_that_explodes(losses, curve([10.0**i for i in range(len(values))])) is None


def test_loss_that_has_converged_is_silent() -> None:
    assert loss_that_does_not_fall(curve([4.0] + [1.0] * 40)) is None
    assert loss_that_does_not_fall(curve([4.0] + [3.9] * 40)) is not None


def test_exploding_rate_and_loss_are_named() -> None:
    steady = [1.0] * 20
    growing = rate_that_explodes(curve(steady), curve([1e-3 * 1.5**i for i in range(20)]))
    assert growing is not None
    assert "at most 0.0384 up to iteration 500, 2.22 now" in growing  # 1e-3 * 1.5**9 and 1.5**19
    constant = curve([0.5] * 20)
    diverged = rate_that_explodes(curve([2.0] * 7 + [1.0] * 6 + [9.0] * 7), constant)
    assert diverged is not None
    assert "rose from 1 to 9 at a learning rate of 0.5" in diverged
    assert rate_that_explodes(curve([2.0] * 7 + [1.0] * 6 + [1.9] * 7), constant) is None
    above_a_third = curve([9.0] + [2.0] * 6 + [1.0] * 6 + [3.0] * 7)
    assert rate_that_explodes(above_a_third, constant) is None  # still below where it began


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_warm_up_of_any_length_is_no_explosion(shape: str) -> None:
    for length in (12, 40, 200):
        share = [(i + 1) / length for i in range(length)]
        risen = share if shape == "linear" else [(1 - math.cos(math.pi * s)) / 2 for s in share]
        rates = curve([0.01 * value + 1e-8 for value in risen])
        for end in range(1, length + 1):
            assert rate_that_explodes(curve([1.0] * end), rates[:end]) is None


def test_toy_trainings_that_learn_are_silent(tmp_path: Path) -> None:
    train(toy_config(tmp_path, iters=120, **{"train_cfg.val_interval": 40}))
    assert read_notes(tmp_path) == []


def test_symptom_is_said_once_also_over_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", out := io.StringIO())
    config = toy_config(tmp_path, iters=160, **{"train_cfg.val_interval": 40})
    config.optim_wrapper.optimizer.lr = 0.0
    config.param_scheduler = None
    train(config)
    ((step, text),) = read_notes(tmp_path)
    assert step == 120  # the first validation after 100 iterations
    assert text.startswith("the loss does not fall: ")
    assert out.getvalue().count(f"iteration 120: {text}") == 1
    config.train_cfg.max_iters = 200
    go_on(config)
    assert read_notes(tmp_path) == [(step, text)]


def test_classes_never_predicted_are_in_the_log_and_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", out := io.StringIO())
    runner = train(with_validation(tmp_path, iters=1))
    (metric,) = runner.val_evaluator.metrics
    missing = [name for k, name in enumerate("abcde") if not metric.confusion[:, k].sum()]
    assert missing
    names = ", ".join(map(repr, missing))
    ((step, text),) = read_notes(tmp_path)
    assert step == 1
    assert text.startswith(f"never predicted, though labelled: {names}; ")
    assert out.getvalue().count(text) == 1
    assert f"Iteration 1: {text}" in (tmp_path / "report.html").read_text().replace("&#39;", "'")
