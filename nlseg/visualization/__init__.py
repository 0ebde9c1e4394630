"""Visualization: arrays -> pictures; the visualizer, which needs PyTorch, when it is asked for."""

from typing import TYPE_CHECKING, Any

from nlseg.visualization.pictures import as_palette, legend, make_palette, overlay, paint

if TYPE_CHECKING:
    from nlseg.visualization.visualizer import SegLocalVisualizer

__all__ = ["SegLocalVisualizer", "as_palette", "legend", "make_palette", "overlay", "paint"]


def __getattr__(name: str) -> Any:
    """Import the visualizer."""
    if name != "SegLocalVisualizer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nlseg.visualization.visualizer import SegLocalVisualizer

    return SegLocalVisualizer
