"""Visualization: arrays -> pictures."""

from nlseg.visualization.overlay import legend, overlay, paint
from nlseg.visualization.palette import as_palette, make_palette
from nlseg.visualization.visualizer import SegLocalVisualizer

__all__ = ["SegLocalVisualizer", "as_palette", "legend", "make_palette", "overlay", "paint"]
