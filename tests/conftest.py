"""``pytest -m gpu`` runs beside PyTorch, mmengine, mmcv-lite, tqdm and pytest alone."""

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what other tests need, where only those of ``tests/gpu`` are asked for."""
    if config.option.markexpr != "gpu" or collection_path.is_dir():
        return None
    return None if collection_path.parent.name == "gpu" else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that hold slow tests, so that none is left over for one process."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture
def watchful_loaders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a loader look every 0.2 s whether its workers live; PyTorch does so every 5 s."""
    loader = pytest.importorskip("torch.utils.data.dataloader")
    waiting = loader._MultiProcessingDataLoaderIter._try_get_data
    assert waiting.__defaults__ == (5.0,)
    monkeypatch.setattr(waiting, "__defaults__", (0.2,))
