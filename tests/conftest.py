"""``pytest -m gpu`` runs beside PyTorch, mmengine, mmcv-lite, tqdm and pytest alone."""

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what other tests need, where only those of ``tests/gpu`` are asked for."""
    if config.option.markexpr != "gpu" or collection_path.is_dir():
        return None
    return None if collection_path.parent.name == "gpu" else True
