"""mmengine's runner with what it leaves to chance replaced.

Replaced are: how processes start, wrapping, data loaders, saving, loading and resuming. Config
keys, hooks, schedulers and log processor stay mmengine's. Keys of the config that are new here:
``non_finite``, ``time_limits``, ``max_time``, ``load_strict``, ``load_finite``, ``channels_last``,
``tf32``; ``compile`` compiles the network only, see ``compilation``.
"""

import copy
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper as MMOptimWrapper
from mmengine.runner import BaseLoop
from mmengine.runner import Runner as MMRunner
from mmengine.utils.dl_utils import set_multi_processing
from mmengine.visualization import Visualizer
from torch import nn
from torch.utils.data import DataLoader

from nlseg.config.text import hide_secrets
from nlseg.registry import RUNNERS
from nlseg.run import checkpoint, processes, resume
from nlseg.run.control import Control, Preempted
from nlseg.run.device import (
    apply_speed_settings,
    be_deterministic,
    check_cuda_build,
    compile_network,
    describe_environment,
    prefer_fused,
    revert_sync_batchnorm,
    seed_run,
)
from nlseg.run.folder import FolderLock, check_writable
from nlseg.run.loaders import clean_loader_config, every_image_once, log_bad_samples, shut_down
from nlseg.run.logs import forgive_back_ends, make_message_hub
from nlseg.run.loop import choose_files
from nlseg.run.state import collect
from nlseg.run.step import OptimWrapper
from nlseg.weights.pretrained import use_own_reader

_DEFAULT_HOOKS = {
    "runtime_info": {"type": "RuntimeInfoHook"},
    "timer": {"type": "IterTimerHook"},
    "sampler_seed": {"type": "DistSamplerSeedHook"},
    "logger": {"type": "LoggerHook"},
    "param_scheduler": {"type": "ParamSchedulerHook"},
    "checkpoint": {"type": "CheckpointHook", "interval": 1},
    "progress": {"type": "ProgressHook"},
    "data_check": {"type": "DataCheckHook"},
}


@RUNNERS.register_module()
class Runner(MMRunner):
    """Trains, validates and tests what a config describes; see the module's first lines."""

    control: Control
    _resume: bool
    _has_loaded: bool

    @classmethod
    def build(cls, cfg: Config) -> "Runner":
        """Build the runner that a config asks for, by its ``runner_type`` where it has one.

        Raises:
            UserError: The run folder cannot be written to.
        """
        check_writable(Path(cfg.work_dir))
        kind = cfg.get("runner_type")
        if kind is None:
            plain: Runner = cls.from_cfg(cfg)
            return plain
        runner: Runner = RUNNERS.get(kind).from_cfg(cfg)
        return runner

    def setup_env(self, env_cfg: Mapping[str, Any]) -> None:
        """Join the other processes and set what holds for the whole process.

        Args:
            env_cfg: mmengine's keys ``cudnn_benchmark``, ``mp_cfg``, ``dist_cfg``.
        """
        check_cuda_build()
        set_multi_processing(**env_cfg.get("mp_cfg", {}), distributed=self.distributed)
        settings = dict(env_cfg.get("dist_cfg", {}))
        processes.start(
            self.launcher, backend=settings.get("backend"), timeout_s=settings.get("timeout")
        )
        self._rank, self._world_size = processes.rank(), processes.world_size()
        apply_speed_settings(self.cfg, env_cfg)
        started = processes.broadcast(torch.tensor(time.time(), dtype=torch.float64)).item()
        self._timestamp = time.strftime("%Y%m%d_%H%M%S", time.localtime(started))
        self.resumed = resume.Resumed()
        self.lock = FolderLock(Path(self.work_dir))
        self.lock_warning = None
        if self._train_loop is not None and processes.is_main():
            self.lock_warning = self.lock.acquire()

    def set_randomness(
        self, seed: int | None, diff_rank_seed: bool = False, deterministic: bool = False
    ) -> None:
        """Seed the run.

        Args:
            seed: The run's seed; None draws one, which resuming takes over.
            diff_rank_seed: Kept for mmengine's configs; every process always draws differently.
            deterministic: Whether to give the same bits on every run (see ``randomness``).
        """
        self._deterministic = deterministic
        self._seed = seed_run(seed)
        if deterministic:
            be_deterministic()

    def _log_env(self, env_cfg: Mapping[str, Any]) -> None:
        self.logger.info(describe_environment(self.seed, self.world_size, self.launcher))
        self.config_text = hide_secrets(self.cfg.pretty_text) if self.cfg._cfg_dict else ""
        if self.config_text:
            self.logger.info(f"Config:\n{self.config_text}")

    def dump_config(self) -> None:
        """Write the resolved config into the run folder, but never over the file it comes from.

        That of a test goes beside its log, so that the training's stays.
        """
        if not processes.is_main():
            return
        source = Path(self.cfg.filename or f"{self.timestamp}.py")
        folder = Path(self.log_dir if self._train_loop is None else self.work_dir)
        if source.resolve() != (folder / source.name).resolve():
            self.cfg.dump(folder / source.name)

    def build_message_hub(self, message_hub: dict | None = None) -> MessageHub:
        """Make the hub that keeps windows only."""
        return make_message_hub(self._experiment_name)

    def build_visualizer(self, visualizer: Visualizer | dict | None = None) -> Visualizer:
        """Build the visualizer, whose back ends cannot end a run."""
        built: Visualizer = super().build_visualizer(visualizer)
        forgive_back_ends(built, self.logger.warning)
        return built

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Bring the model to its device and, with several processes, wrap it."""
        model = model.to(processes.device())
        if self.world_size == 1 or processes.device().type == "cpu":
            model = revert_sync_batchnorm(model)
        if self.cfg.get("channels_last"):
            to_layout: Any = model.to
            model = to_layout(memory_format=torch.channels_last)
        if not self.distributed:
            return model
        unused = bool(self.cfg.get("find_unused_parameters", False))
        return processes.wrap(model, find_unused_parameters=unused)

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Build a loader whose workers outlive a signal."""
        if isinstance(dataloader, DataLoader):
            return dataloader
        loader: DataLoader = MMRunner.build_dataloader(clean_loader_config(dataloader), seed, False)
        return loader

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the training loop; without a type, by its ``by_epoch``."""
        if isinstance(loop, dict) and "type" not in loop:
            loop = dict(loop)
            epochs = loop.pop("by_epoch", "max_epochs" in loop)
            loop["type"] = "EpochBasedTrainLoop" if epochs else "IterBasedTrainLoop"
        built = super().build_train_loop(loop)
        log_bad_samples(built.dataloader.dataset, Path(self.work_dir) / "bad_samples.jsonl")
        return built

    def build_val_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the validation loop."""
        built = super().build_val_loop(
            {"type": "ValLoop", **loop} if isinstance(loop, dict) else loop
        )
        every_image_once(built.dataloader.dataset)
        return built

    def build_test_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the test loop, which leaves scores of every class beside its log."""
        built = super().build_test_loop(
            {"type": "TestLoop", **loop} if isinstance(loop, dict) else loop
        )
        every_image_once(built.dataloader.dataset)
        choose_files(built.evaluator.metrics, built.dataloader.dataset, Path(self.log_dir))
        return built

    def register_default_hooks(self, hooks: Mapping[str, Hook | dict | None] | None = None) -> None:
        """Register the default hooks, changed by the config's; None takes one away."""
        chosen: dict[str, Any] = {**_DEFAULT_HOOKS, **(hooks or {})}
        for hook in chosen.values():
            if hook is not None:
                self.register_hook(copy.deepcopy(hook))

    def _maybe_compile(self, target: str) -> None:
        compile_network(self.model, self.cfg.get("compile"))

    def get_hooks_info(self) -> str:
        """Return the hooks in the order in which they run."""
        return ", ".join(type(hook).__name__ for hook in self._hooks)

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call one method of all hooks; errors keep their traceback."""
        for hook in self._hooks:
            if hasattr(hook, fn_name):
                getattr(hook, fn_name)(self, **kwargs)

    def build_optim_wrapper(self, optim_wrapper: Any) -> MMOptimWrapper:
        """Build the optimizer wrapper, which asks all processes before each step."""
        if isinstance(optim_wrapper, dict):
            optim_wrapper = prefer_fused(optim_wrapper)
        wrapper = super().build_optim_wrapper(optim_wrapper)
        if isinstance(wrapper, OptimWrapper):
            wrapper.agreement = self.control.agreement
        return wrapper

    def train(self) -> nn.Module:
        """Train, from the beginning or from a checkpoint.

        Raises:
            Preempted: Somebody asked to stop; the state is saved.
        """
        self.scheduler_config = copy.deepcopy(self.param_schedulers)
        self.control = Control(self)
        if self.lock_warning is not None:
            self.logger.warning(self.lock_warning)
        resume.choose_start(self)
        try:
            with self.control:
                model: nn.Module = super().train()
            return model
        except Preempted as request:
            self.logger.warning(f"stopped: {request.reason}; --resume goes on from here")
            self.call_hook("after_run")
            raise
        finally:
            self._shut_down_loaders()
            self.lock.release()

    def val(self) -> dict[str, float]:
        """Validate."""
        self.control = Control(self)
        try:
            scores: dict[str, float] = super().val()
            return scores
        finally:
            self._shut_down_loaders()

    def test(self) -> dict[str, float]:
        """Test."""
        self.control = Control(self)
        try:
            scores: dict[str, float] = super().test()
            return scores
        finally:
            self._shut_down_loaders()

    def _shut_down_loaders(self) -> None:
        for loop in (self._train_loop, self._val_loop, self._test_loop):
            shut_down(getattr(loop, "dataloader", None))

    def _init_model_weights(self) -> None:
        if self.resumed.path is None:
            use_own_reader(self.model)
            super()._init_model_weights()

    def load_or_resume(self) -> None:
        """Restore the run that is resumed, or load weights to begin or test with."""
        if self._has_loaded:
            return
        if self.resumed.path is not None:
            resume.restore(self, self.resumed)
            self.logger.info(f"resumed {self.resumed.path} at iteration {self.iter}")
            self._has_loaded = True
        elif self._load_from is not None:
            self.load_checkpoint(self._load_from, strict=self._loads_strictly())

    def _loads_strictly(self) -> bool:
        """Tell whether all weights must fit: for a test always, to train on others' weights not."""
        training = isinstance(self._train_loop, BaseLoop)
        return bool(self.cfg.get("load_strict", not training))

    def load_checkpoint(
        self,
        filename: str,
        map_location: Any = "cpu",
        strict: bool = True,
        revise_keys: Sequence[tuple[str, str]] = (),
    ) -> dict[str, Any]:
        """Load weights and say what was used.

        Args:
            filename: File, https address or published name.
            map_location: Kept for mmengine's callers; weights are read to the host.
            strict: Whether every weight must fit.
            revise_keys: Pairs (pattern, replacement) applied to the file's keys.

        Raises:
            CheckpointError: The file cannot be read, or does not fit.
        """
        content: dict[str, Any] = resume.load_weights(
            self, filename, strict=strict, revise_keys=revise_keys
        )
        self._has_loaded = True
        return content

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict | None = None,
        by_epoch: bool = True,
        backend_args: None = None,
    ) -> None:
        """Save a checkpoint from a hook's ``after_train_epoch`` or ``after_train_iter``.

        Args:
            out_dir: Folder.
            filename: Name.
            file_client_args: Not used.
            save_optimizer: Whether to save the optimizer.
            save_param_scheduler: Whether to save the schedulers.
            meta: More entries of ``meta``; ``iter`` and ``epoch`` replace what is counted.
            by_epoch: Whether an epoch, rather than an iteration, is about to end.
            backend_args: Not used.
        """
        meta = dict(meta or {})
        iteration = int(meta.pop("iter", self.iter + (not by_epoch)))
        epoch = int(meta.pop("epoch", self.epoch + by_epoch))
        if processes.is_main():
            state = collect(
                self,
                iteration=iteration,
                epoch=epoch,
                optimizer=save_optimizer,
                schedule=save_param_scheduler,
                extra=meta,
            )
            checkpoint.save(checkpoint.plain(state), Path(out_dir) / filename)
