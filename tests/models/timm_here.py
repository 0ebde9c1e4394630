"""Whether timm can be imported here; it needs a torchvision that fits torch."""

import pytest

WHY = "timm cannot be imported ({}); pip install 'nlseg[timm]' beside a torch of the same build"


def skip_without_timm(*, module: bool = False) -> None:
    """Skip a test, or a whole module, where timm is not there or its torchvision does not load."""
    try:
        import timm  # noqa: F401
    except (ImportError, RuntimeError) as error:
        pytest.skip(WHY.format(error), allow_module_level=module)
