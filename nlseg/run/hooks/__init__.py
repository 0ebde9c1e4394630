"""What runs beside training: saving, logs, progress bars, weight averages, pictures."""

from nlseg.run.hooks.checkpoint import CheckpointHook
from nlseg.run.hooks.ema import EMAHook, ExponentialMovingAverage
from nlseg.run.hooks.logger import LoggerHook
from nlseg.run.hooks.progress import ProgressHook
from nlseg.run.hooks.visualization import SegVisualizationHook

__all__ = [
    "CheckpointHook",
    "EMAHook",
    "ExponentialMovingAverage",
    "LoggerHook",
    "ProgressHook",
    "SegVisualizationHook",
]
