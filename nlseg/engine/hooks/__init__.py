"""What runs beside training: saving, logs, progress bars, weight averages, pictures."""

from nlseg.engine.hooks.checkpoint import CheckpointHook
from nlseg.engine.hooks.data_check import DataCheckHook
from nlseg.engine.hooks.ema import EMAHook, ExponentialMovingAverage
from nlseg.engine.hooks.logger import LoggerHook
from nlseg.engine.hooks.progress import ProgressHook
from nlseg.engine.hooks.visualization import SegVisualizationHook

__all__ = [
    "CheckpointHook",
    "DataCheckHook",
    "EMAHook",
    "ExponentialMovingAverage",
    "LoggerHook",
    "ProgressHook",
    "SegVisualizationHook",
]
