"""Visualization: arrays -> pictures."""

from nlseg.visualization.pictures import as_palette, legend, make_palette, overlay, paint
from nlseg.visualization.visualizer import SegLocalVisualizer

__all__ = ["SegLocalVisualizer", "as_palette", "legend", "make_palette", "overlay", "paint"]
