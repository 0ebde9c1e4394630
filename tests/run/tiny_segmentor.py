"""A segmentor of a few thousand weights, images of noise for it, and runs made of them."""

from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import torch
from mmengine.config import Config
from mmengine.structures import PixelData

from nlseg.registry import DATASETS, MODELS
from nlseg.structures import SampleIndex, SegDataSample

_NAMES = count()
NORM = {"type": "BN", "requires_grad": True}


def tiny_config(head: str = "NLHead") -> dict[str, Any]:
    """Return the config of a segmentor for five classes."""
    return {
        "type": "EncoderDecoder",
        "data_preprocessor": {
            "type": "SegDataPreProcessor", "mean": [100.0] * 3, "std": [50.0] * 3, "size": (48, 48),
        },
        "backbone": {
            "type": "ResNetV1c", "depth": 18, "base_channels": 8, "stem_channels": 8,
            "dilations": (1, 1, 2, 4), "strides": (1, 2, 1, 1), "norm_cfg": NORM,
        },
        "decode_head": {
            "type": head, "in_channels": 64, "channels": 16, "num_classes": 5, "norm_cfg": NORM,
        },
        "auxiliary_head": {
            "type": "FCNHead", "in_channels": 32, "in_index": 2, "channels": 8, "num_convs": 1,
            "concat_input": False, "num_classes": 5, "norm_cfg": NORM,
        },
    }  # fmt: skip


def tiny_segmentor(head: str = "NLHead") -> Any:
    """Build it with running statistics and last norms that matter."""
    torch.manual_seed(0)
    model = MODELS.build(tiny_config(head))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    return model


def labelled(size: tuple[int, int], name: str = "a.png") -> SegDataSample:
    """Make a data sample with a label map of noise."""
    sample = SegDataSample(metainfo={"img_path": name, "ori_shape": size, "img_shape": size})
    sample.gt_sem_seg = PixelData(data=torch.randint(5, (1, *size)))
    return sample


@DATASETS.register_module(force=True)
class NoiseImages:
    """Images of noise, (3, 48, 48), with labels."""

    metainfo: ClassVar[dict[str, Any]] = {
        "classes": tuple("abcde"),
        "palette": [[i, i, i] for i in range(5)],
    }

    def __init__(self, size: int = 8) -> None:
        self.size = size
        self.seed = 0

    def set_seed(self, seed: int) -> None:
        self.seed = seed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int | SampleIndex) -> dict[str, Any]:
        image = torch.randint(256, (3, 48, 48), dtype=torch.uint8)
        return {"inputs": image, "data_samples": labelled((48, 48))}


def tiny_run(folder: Path, *, iters: int, **changes: Any) -> Config:
    """Make the config of a training run that logs and saves at its end only."""
    config: dict[str, Any] = {
        "default_scope": "nlseg",
        "work_dir": str(folder),
        "model": tiny_config(),
        "train_dataloader": {
            "batch_size": 2, "num_workers": 0, "dataset": {"type": "NoiseImages"},
            "sampler": {"type": "InfiniteSampler", "shuffle": True},
        },
        "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": iters},
        "optim_wrapper": {
            "type": "OptimWrapper",
            "optimizer": {"type": "SGD", "lr": 0.01, "momentum": 0.9, "fused": True},
        },
        "param_scheduler": [
            {"type": "PolyLR", "eta_min": 1e-4, "power": 0.9, "begin": 0, "end": iters,
             "by_epoch": False}
        ],
        "default_hooks": {
            "logger": {"type": "LoggerHook", "interval": 10**6, "tensorboard": False},
            "checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": 10**6},
        },
        "env_cfg": {"mp_cfg": {"mp_start_method": "fork"}, "dist_cfg": {"backend": "nccl"}},
        "log_processor": {"by_epoch": False},
        "randomness": {"seed": 7},
        "experiment_name": f"tiny{next(_NAMES)}",
    }  # fmt: skip
    config.update(changes)
    return Config(config)
