import logging
from pathlib import Path
from typing import Any

import pytest
from mmengine.registry import VISBACKENDS
from mmengine.visualization import BaseVisBackend

from tests.run.runs import curves, train
from tests.run.toy import toy_config

CALLS: list[str] = []


@VISBACKENDS.register_module(force=True)
class BrokenBackend(BaseVisBackend):
    """Fails at ``add_config`` or from the n-th line on, as a server that cannot be reached does."""

    def __init__(self, save_dir: str, works: int = 0) -> None:
        super().__init__(save_dir)
        self.works = works

    @property
    def experiment(self) -> Any:
        return self

    def _init_env(self) -> None:
        if not self.works:
            raise ConnectionError("no server")

    def _work(self, name: str) -> None:
        CALLS.append(name)
        self.works -= 1
        if self.works < 0:
            raise ConnectionError("server has gone")

    def add_config(self, config: Any, **kwargs: Any) -> None:
        self._init_env()
        self._work("config")

    def add_scalars(self, *_: Any, **__: Any) -> None:
        self._work("scalars")

    def close(self) -> None:
        self._work("close")


@pytest.mark.parametrize(("works", "calls"), [(0, 2), (3, 6)])
def test_back_end_that_fails_is_warned_of_once_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, works: int, calls: int
) -> None:
    CALLS.clear()
    warnings: list[str] = []
    monkeypatch.setattr(
        logging.Logger, "warning", lambda self, text, *_: warnings.append(str(text))
    )
    back_end = {"type": "BrokenBackend", "works": works}
    visualizer = {"type": "Visualizer", "vis_backends": [back_end]}
    train(toy_config(tmp_path, visualizer=visualizer))
    told = [text for text in warnings if "BrokenBackend fails" in text]
    assert len(told) == 1
    assert "no server" in told[0] or "server has gone" in told[0]
    assert len(CALLS) == calls  # three failures in a row, of which one may be before any call
    assert [line["step"] for line in curves(tmp_path) if line["kind"] == "train"][-1] == 12


def test_wandb_that_is_not_installed_is_no_reason_to_stop(tmp_path: Path) -> None:
    visualizer = {"type": "Visualizer", "vis_backends": [{"type": "WandbVisBackend"}]}
    train(toy_config(tmp_path, iters=4, visualizer=visualizer))
    assert (tmp_path / "iter_4.pth").is_file()


def test_tensorboard_that_cannot_write_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    config = toy_config(tmp_path, iters=4, **{"default_hooks.logger.tensorboard": True})
    back_end = {"type": "TensorboardVisBackend", "save_dir": str(tmp_path / "tensorboard")}
    config.visualizer = {"type": "Visualizer", "vis_backends": [back_end]}
    train(config)
    assert (tmp_path / "iter_4.pth").is_file()
