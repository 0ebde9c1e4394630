from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nlseg.errors import CheckpointError
from nlseg.weights.fields import check_optimizer, count, mapping, meta_in, number
from nlseg.weights.inert_parts import Inert
from tests.cases import each_case

META: dict[str, Any] = {"iter": 7, "lr": 0.5, "best": {"mIoU": {"score": 1}}, "gone": Inert("a.B")}


def test_fields_are_returned_as_they_are() -> None:
    assert count(META, "meta.iter", "f") == 7
    assert count(META, "meta.epoch", "f", default=3) == 3
    assert number(META, "meta.lr", "f") == 0.5
    assert mapping(META, "meta.best", "f") == {"mIoU": {"score": 1}}
    assert mapping(META, "meta.gone", "f") == mapping(META, "meta.none", "f") == {}


@each_case(
    "value, shown",
    [
        (-1, "-1"), (True, "True"), (1.5, "1.5"), ("7", "'7'"), (None, "missing"), ([7], "a list"),
        (10**300, "10000"), (Inert("a.B"), "<not loaded: a.B>"), (torch.ones(1), "a Tensor"),
    ],
)  # fmt: skip
def test_a_wrong_count_is_named(value: Any, shown: str) -> None:
    with pytest.raises(CheckpointError, match=rf"^f\.pth: meta\.iter: is {shown}.* not a whole"):
        count({"iter": value}, "meta.iter", "f.pth")


@each_case("value", [float("nan"), float("inf"), "1", None, True, 10**400])
def test_a_wrong_number_is_named(value: Any) -> None:
    with pytest.raises(CheckpointError, match=r"^f: meta\.lr: is .*, not a finite number"):
        number({"lr": value}, "meta.lr", "f")


def test_a_field_that_is_no_dict_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"meta\.best: is 'x', not a dict"):
        mapping({"best": "x"}, "meta.best", "f")


def test_classes_and_palette_of_both_generations() -> None:
    new = {"dataset_meta": {"classes": ("a", "b"), "palette": np.array([[1, 2, 3], [4, 5, 6]])}}
    assert meta_in({"meta": new}) == {"classes": ("a", "b"), "palette": [[1, 2, 3], [4, 5, 6]]}
    assert meta_in({"meta": {"CLASSES": ["a"], "PALETTE": [[0, 0, 0]]}})["palette"] == [[0, 0, 0]]
    assert meta_in({"meta": None}) == meta_in({}) == {}
    for meta, name in (
        ({"CLASSES": "road"}, "classes"),
        ({"CLASSES": [1]}, "classes"),
        ({"CLASSES": ["a"], "PALETTE": [[0, 0, 256]]}, "palette"),
        ({"CLASSES": ["a"], "PALETTE": [[0, 0]]}, "palette"),
        ([], "meta"),
    ):
        with pytest.raises(CheckpointError, match=name):
            meta_in({"meta": meta})


def trained(kind: type, **settings: Any) -> torch.optim.Optimizer:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = kind(model.parameters(), lr=0.1, **settings)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer


OPTIMIZERS = [
    (torch.optim.SGD, {"momentum": 0.9}), (torch.optim.AdamW, {"amsgrad": True}),
    (torch.optim.RMSprop, {"momentum": 0.9, "centered": True}), (torch.optim.Adagrad, {}),
    (torch.optim.Adadelta, {}), (torch.optim.Adamax, {}), (torch.optim.ASGD, {}),
    (torch.optim.NAdam, {}), (torch.optim.RAdam, {}), (torch.optim.Rprop, {}),
]  # fmt: skip


@each_case("kind, settings", OPTIMIZERS)
def test_every_optimizers_own_state_is_accepted(
    tmp_path: Path, kind: type, settings: dict[str, Any]
) -> None:
    optimizer = trained(kind, **settings)
    check_optimizer(optimizer.state_dict(), optimizer, "f")


def _set(state: Any, place: str, value: Any) -> None:
    *outer, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    for part in outer:
        state = state[part]
    state[last] = value


@each_case(
    "place, value, message",
    [
        (
            "state.0.momentum_buffer",
            torch.zeros(5),
            r"state\[0\]\.momentum_buffer: has shape \(5,\)",
        ),
        ("state.0.momentum_buffer", "x", r"state\[0\]\.momentum_buffer: is 'x', not a tensor"),
        ("state.1.momentum_buffer", torch.full((2,), torch.nan), "holds NaN or infinity"),
        ("state.1.momentum_buffer", torch.zeros(()), r"has shape \(\), its parameter \(2,\)"),
        ("state.1", None, r"state\[1\]: is missing, not a dict"),
        ("state.9", {}, r"state\[9\]: belongs to no parameter"),
        ("state.1.other", "text", r"state\[1\]\.other: is 'text', not a number or a tensor"),
        ("state", [], r"optimizer\.state: is a list, not a dict"),
        ("param_groups", None, r"optimizer\.param_groups: is missing, not a list"),
        ("param_groups", [], "has 0 groups, the optimizer 1"),
        ("param_groups.0", 7, r"param_groups\[0\]: is 7, not a dict"),
        ("param_groups.0.params", [0], "has 1 parameters, the optimizer 2"),
        ("param_groups.0.params", ["a", "b"], r"params: is a list, not a list of numbers"),
        ("param_groups.0.lr", "fast", r"param_groups\[0\]\.lr: is 'fast', not a finite number"),
        ("param_groups.0.momentum", float("nan"), r"momentum: is nan, not a finite number"),
    ],
)
def test_a_changed_state_is_refused_with_the_field(place: str, value: Any, message: str) -> None:
    optimizer = trained(torch.optim.SGD, momentum=0.9)
    state = optimizer.state_dict()
    _set(state, place, value)
    with pytest.raises(CheckpointError, match=message):
        check_optimizer(state, optimizer, "f")


class Factored(torch.optim.Optimizer):
    """A user's optimizer, whose state looks as it likes."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 1.0, "betas": (0.9, 0.99), "note": "x"})

    def step(self, closure: Callable | None = None) -> None:  # type: ignore[override]
        for parameter in self.param_groups[0]["params"]:
            rows: list[Tensor] = [parameter.detach().sum(-1)]
            self.state[parameter] = {"exp_avg_sq": rows[0], "rows": rows, "calls": 3}


def test_a_users_optimizer_is_judged_by_itself() -> None:
    optimizer = Factored(nn.Linear(3, 2).parameters())
    optimizer.step()
    state = optimizer.state_dict()
    check_optimizer(state, optimizer, "f")
    state["param_groups"][0]["betas"] = 0.9
    with pytest.raises(CheckpointError, match=r"param_groups\[0\]\.betas: is 0\.9, not 2 numbers"):
        check_optimizer(state, optimizer, "f")
