"""The parts of a config that name no class: which keys they take."""

from collections.abc import Mapping
from typing import Any

from typing_extensions import TypedDict

from nlseg.bounds import Count, Natural
from nlseg.config.origin import KeyPath

Built = Mapping[str, Any]


class Loader(TypedDict, total=False):
    """A data loader."""

    batch_size: Count
    num_workers: Natural
    persistent_workers: bool
    pin_memory: bool
    pin_memory_device: str
    drop_last: bool
    prefetch_factor: int | None
    timeout: float
    multiprocessing_context: str | None
    in_order: bool
    num_batch_per_epoch: int | None
    sampler: Built
    batch_sampler: Built | None
    dataset: Built
    collate_fn: Built
    worker_init_fn: Built


class Processes(TypedDict, total=False):
    """How worker processes start."""

    mp_start_method: str
    opencv_num_threads: int


class Distribution(TypedDict, total=False):
    """How processes talk to each other; ``timeout`` in seconds."""

    backend: str
    timeout: float
    port: int | str
    init_backend: str


class Environment(TypedDict, total=False):
    """Settings of the process."""

    cudnn_benchmark: bool
    mp_cfg: Processes
    dist_cfg: Distribution
    resource_limit: int


class Randomness(TypedDict, total=False):
    """Seeds."""

    seed: int | None
    deterministic: bool
    diff_rank_seed: bool


class RateScaling(TypedDict, total=False):
    """Learning rate in proportion to the batch size."""

    base_batch_size: int
    enable: bool


class ParameterGroups(TypedDict, total=False):
    """Learning rates and decays of some parameters."""

    bias_lr_mult: float
    bias_decay_mult: float
    norm_decay_mult: float
    flat_decay_mult: float
    dwconv_decay_mult: float
    dcn_offset_lr_mult: float
    bypass_duplicate: bool
    custom_keys: Mapping[str, Any]


class Imports(TypedDict, total=False):
    """Modules to import, so that their classes are registered."""

    imports: list[str] | str
    allow_failed_imports: bool


FIXED: dict[KeyPath, Any] = {
    ("auto_scale_lr",): RateScaling,
    ("custom_imports",): Imports,
    ("env_cfg",): Environment,
    ("env_cfg", "dist_cfg"): Distribution,
    ("env_cfg", "mp_cfg"): Processes,
    ("optim_wrapper", "paramwise_cfg"): ParameterGroups,
    ("randomness",): Randomness,
    ("test_dataloader",): Loader,
    ("train_dataloader",): Loader,
    ("val_dataloader",): Loader,
}
"""Keyword groups by the place in a config that they describe."""
