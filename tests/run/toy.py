"""A network, data set and metric small enough to train in milliseconds, and runs made of them."""

import mmap
import os
import signal
import time
from copy import deepcopy
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from torch import nn
from torch.nn import functional as F
from torch.utils.data import get_worker_info

from nlseg.config.text import ReadableConfig
from nlseg.datasets.stream import sample_rng
from nlseg.registry import DATASETS, METRICS, MODELS
from nlseg.structures import SampleIndex

_NAMES = count()
_DEAD = mmap.mmap(-1, 1)  # shared with forked workers: whether one has died already


def let_one_die() -> None:
    """Let a worker that comes to ``die_at`` die, though one has died in an earlier run."""
    _DEAD[0] = 0


def _die_once(number: int) -> None:
    if not _DEAD[0]:
        _DEAD[0] = 1
        os.kill(os.getpid(), signal.SIGKILL)


@MODELS.register_module(force=True)
class ToyModel(BaseModel):
    """Two layers with dropout and batch normalisation on vectors of 6."""

    def __init__(
        self, width: int = 8, dropout: float = 0.3, sync: bool = False, use_norm: bool = True
    ) -> None:
        super().__init__()
        kind = nn.SyncBatchNorm if sync else nn.BatchNorm1d
        norm = kind(width) if use_norm else nn.Identity()
        self.body = nn.Sequential(nn.Linear(6, width), norm, nn.ReLU(), nn.Dropout(dropout))
        self.head = nn.Linear(width, 3)

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor") -> Any:
        batch = torch.stack(list(inputs))[:, :6]
        logits = self.head(self.body(batch))
        if mode == "loss":
            labels = torch.stack(list(data_samples))
            return {"loss_ce": F.cross_entropy(logits.float(), labels)}
        return [
            {"pred": p, "label": t} for p, t in zip(logits.argmax(1), data_samples, strict=True)
        ]


@DATASETS.register_module(force=True)
class ToyData:
    """Vectors of 6 with a class each; training samples carry noise drawn from (seed, number)."""

    metainfo: ClassVar[dict] = {
        "classes": ("a", "b", "c"),
        "palette": [[0, 0, 0], [1, 1, 1], [2, 2, 2]],
    }
    log: Path | None = None

    def __init__(
        self,
        size: int = 23,
        test_mode: bool = False,
        log: str | None = None,
        poison: tuple[int, ...] = (),
        sleep_at: int = -1,
        die_at: int = -1,
        padding: int = 0,
        wide: str = "images",
        hunger: int = 0,
    ) -> None:
        generator = torch.Generator().manual_seed(5)
        self.points = torch.randn(size, 6, generator=generator)
        self.labels = self.points[:, :3].argmax(1)
        self.test_mode, self.seed = test_mode, 0
        self.die_at, self.padding, self.wide, self.hunger = die_at, padding, wide, hunger
        self.file, self.poison, self.sleep_at = log, poison, sleep_at

    def set_seed(self, seed: int) -> None:
        self.seed = seed

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int | SampleIndex) -> dict[str, torch.Tensor]:
        image, number = index if isinstance(index, SampleIndex) else (index, index)
        point = self.points[image]
        if number == self.die_at and get_worker_info() is not None:
            _die_once(number)
        if not self.test_mode:
            noise = sample_rng(self.seed, number).standard_normal(6)
            point = point + 0.1 * torch.from_numpy(noise).float()
            if number == self.sleep_at:
                print(f"sample {number} is slow", flush=True)
                time.sleep(3600)
            if number in self.poison:
                point = point * float("nan")
        label = self.labels[image]
        if get_worker_info() is not None:
            np.zeros(self.hunger, np.uint8)
        if self.padding and self.wide == "images":
            point = torch.cat([point, torch.zeros(self.padding)])
        elif self.padding:
            label = torch.cat([label[None], label.new_zeros(self.padding)])[0]
        if self.file:
            with open(self.file, "a") as log:
                log.write(f"{number} {image}\n")
        return {"inputs": point, "data_samples": label}


@METRICS.register_module(force=True)
class ToyAccuracy(BaseMetric):
    """Share of points whose class was found, in percent."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [bool(sample["pred"] == sample["label"]) for sample in data_samples]

    def compute_metrics(self, results: list[bool]) -> dict[str, float]:
        return {"mIoU": 100.0 * sum(results) / len(results)}


def toy_config(folder: Path, *, iters: int = 12, workers: int = 0, **changes: Any) -> Config:
    """Make the config of a toy run: 4 samples an iteration, validation and saving every 4."""
    loader = {"num_workers": workers, "persistent_workers": workers > 0}
    evaluate = {
        **loader,
        "batch_size": 5,
        "dataset": {"type": "ToyData", "size": 13, "test_mode": True},
        "sampler": {"type": "DefaultSampler", "shuffle": False},
    }
    config: dict[str, Any] = {
        "default_scope": "nlseg",
        "work_dir": str(folder),
        "model": {"type": "ToyModel"},
        "train_dataloader": {
            **loader,
            "batch_size": 4,
            "dataset": {"type": "ToyData"},
            "sampler": {"type": "InfiniteSampler", "shuffle": True},
        },
        "val_dataloader": evaluate,
        "test_dataloader": evaluate,
        "val_evaluator": {"type": "ToyAccuracy"},
        "test_evaluator": {"type": "ToyAccuracy"},
        "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": iters, "val_interval": 4},
        "val_cfg": {"type": "ValLoop"},
        "test_cfg": {"type": "TestLoop"},
        "optim_wrapper": {
            "type": "OptimWrapper",
            "optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4},
        },
        "param_scheduler": [
            {"type": "PolyLR", "eta_min": 1e-4, "power": 0.9, "begin": 0, "end": iters,
             "by_epoch": False}
        ],
        "default_hooks": {
            "logger": {"type": "LoggerHook", "interval": 2, "log_metric_by_epoch": False,
                       "tensorboard": False},
            "checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": 4},
        },
        "env_cfg": {"mp_cfg": {"mp_start_method": "fork"}, "dist_cfg": {"backend": "nccl"}},
        "log_processor": {"by_epoch": False},
        "randomness": {"seed": 7},
        "experiment_name": f"toy{next(_NAMES)}",  # loggers are known by name within a process
    }  # fmt: skip
    merged = ReadableConfig(config)
    merged.merge_from_dict(deepcopy(changes))
    return merged
