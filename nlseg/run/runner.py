"""The runner: a config becomes a network, loops, an optimizer and hooks, and these train or test.

Its arguments are mmengine's. Keys of the config that are read beyond these: ``non_finite``,
``time_limits``, ``max_time``, ``load_strict``, ``load_finite``, ``channels_last``, ``tf32``,
``compile``, ``find_unused_parameters``, ``model_wrapper_cfg``, ``activation_checkpointing`` and
``efficient_conv_bn_eval``.
"""

import copy
import inspect
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper as MMOptimWrapper
from mmengine.runner import BaseLoop
from mmengine.visualization import Visualizer
from torch import nn
from torch.utils.data import DataLoader

from nlseg.config.runner_keys import DEFAULT_HOOKS
from nlseg.config.text import hide_secrets
from nlseg.errors import ConfigError
from nlseg.registry import RUNNERS
from nlseg.run import build, console, identity, processes, resume
from nlseg.run.class_weights import fill_class_weights
from nlseg.run.control import Control, Preempted
from nlseg.run.device import (
    apply_process_settings,
    be_deterministic,
    check_graphs,
    compile_network,
    describe_environment,
    join_processes,
    seed_run,
    unused_gpu,
)
from nlseg.run.eval_loop import choose_files
from nlseg.run.folder import FolderLock, check_writable
from nlseg.run.loaders import batch_size_of, every_image_once, log_bad_samples, shut_down
from nlseg.run.logs import FILE_ONLY, LogGuard, make_message_hub, tell_pipelines, telling_why
from nlseg.run.protocol import RunnerProtocol
from nlseg.run.resume import Resumed, Wanted, peek
from nlseg.run.save import CheckpointHook, places_of
from nlseg.run.state import RunState

Part = Mapping[str, Any] | None


@RUNNERS.register_module()
class Runner(RunnerProtocol):
    """Trains, validates and tests what a config describes; hooks see it as ``RunnerProtocol``.

    Args:
        model: The network or its config.
        work_dir: The run folder.
        train_dataloader: Training loader; ``train_cfg`` and ``optim_wrapper`` belong to it.
        val_dataloader: Validation loader; ``val_cfg`` and ``val_evaluator`` belong to it.
        test_dataloader: Test loader; ``test_cfg`` and ``test_evaluator`` belong to it.
        train_cfg: Training loop.
        val_cfg: Validation loop.
        test_cfg: Test loop.
        auto_scale_lr: Whether, and from which ``base_batch_size``, learning rates are scaled.
        optim_wrapper: Optimizer.
        param_scheduler: Schedulers of learning rate or momentum.
        val_evaluator: Metrics of the validation.
        test_evaluator: Metrics of the test.
        default_hooks: Changes to the default hooks by name; None takes one away.
        custom_hooks: More hooks.
        data_preprocessor: Preprocessor of a network whose config has none.
        load_from: Weights to begin with; with ``resume`` the checkpoint to resume from.
        resume: Whether to resume from a checkpoint, the newest of the run folder if none is named.
        launcher: Who started the processes.
        env_cfg: cuDNN's search, start of worker processes, process group.
        log_processor: How scalars become log lines.
        log_level: Lowest level of what is logged.
        visualizer: Visualizer and its back ends.
        default_scope: Registry scope that names in configs are looked up in.
        randomness: Seed and determinism.
        experiment_name: Name of the run; by default that of the config file.
        cfg: The whole config.
    """

    def __init_subclass__(cls) -> None:
        """Refuse, by name, a method that mmengine's runner would call and this one does not."""
        build.refuse_unknown_overrides(cls, Runner)

    def __init__(
        self,
        model: nn.Module | Mapping[str, Any],
        work_dir: str,
        train_dataloader: DataLoader | Part = None,
        val_dataloader: DataLoader | Part = None,
        test_dataloader: DataLoader | Part = None,
        train_cfg: BaseLoop | Part = None,
        val_cfg: BaseLoop | Part = None,
        test_cfg: BaseLoop | Part = None,
        auto_scale_lr: Part = None,
        optim_wrapper: Any = None,
        param_scheduler: Any = None,
        val_evaluator: Any = None,
        test_evaluator: Any = None,
        default_hooks: Part = None,
        custom_hooks: Sequence[Any] | None = None,
        data_preprocessor: Part = None,
        load_from: str | None = None,
        resume: bool = False,
        launcher: str = "none",
        env_cfg: Part = None,
        log_processor: Any = None,
        log_level: int | str = "INFO",
        visualizer: Any = None,
        default_scope: str | None = "mmengine",
        randomness: Part = None,
        experiment_name: str | None = None,
        cfg: Config | dict | None = None,
    ) -> None:
        build.check_complete(locals())
        self.cfg = copy.deepcopy(cfg) if isinstance(cfg, Config) else Config(cfg or {})
        self.work_dir = str(Path(work_dir).absolute())
        Path(self.work_dir).mkdir(parents=True, exist_ok=True)
        self._train_loop, self._val_loop, self._test_loop = train_cfg, val_cfg, test_cfg
        self._loaders = {"train": train_dataloader, "val": val_dataloader, "test": test_dataloader}
        self._evaluators = {"val": val_evaluator, "test": test_evaluator}
        self.optim_wrapper, self.auto_scale_lr = optim_wrapper, auto_scale_lr
        self.param_schedulers = param_scheduler
        self.scheduler_config = copy.deepcopy(param_scheduler)
        self._load_from, self._resume, self._has_loaded = load_from, resume, False
        self.state, self.resumed = RunState(), Resumed()
        self.launcher, self.distributed = launcher, launcher != "none"
        self.setup_env(env_cfg or {})
        self._randomness = dict(randomness or {})
        self.set_randomness(**self._randomness)
        self._open_logs(experiment_name, default_scope, log_processor, log_level, visualizer)
        self.wanted = Wanted(Path(self.work_dir), resume, load_from)
        places = places_of((default_hooks or {}).get("checkpoint"), Path(self.work_dir))
        training_data = None if train_cfg is None else train_dataloader
        model = fill_class_weights(self, model, training_data, lambda: peek(places, self.wanted))
        self._tell_config()
        network = self.build_model(build.with_preprocessor(model, data_preprocessor))
        self.model = self.wrap_model(self.cfg.get("model_wrapper_cfg"), network)
        self.model_name = type(processes.unwrap(self.model)).__name__
        self.hooks: list[Hook] = []
        self.register_hooks(default_hooks, custom_hooks)
        self.logger.info(f"hooks in their order: {self.get_hooks_info()}", extra=FILE_ONLY)
        self.control = Control(self)
        self.dump_config()

    def _open_logs(
        self, name: str | None, scope: str | None, processor: Any, level: int | str, visualizer: Any
    ) -> None:
        """Name the run, open its log and what else is told its numbers."""
        name = name or (Path(self.cfg.filename).stem if self.cfg.filename else None)
        name = f"{name}_{self.timestamp}" if name else self.timestamp
        self.experiment_name = build.unused_name(name, MMLogger)
        self._log_dir = self.log_dir = str(Path(self.work_dir, self.timestamp))
        Path(self.log_dir).mkdir(parents=True, exist_ok=True)
        self.default_scope = build.enter_scope(self.experiment_name, scope)
        self.log_processor = build.build_log_processor(processor)
        log = Path(self.log_dir, f"{self.timestamp}.log")
        self.logger = build.build_logger(self.experiment_name, log, level)
        environment = describe_environment(self.seed, self.world_size, self.launcher)
        self.logger.info(environment, extra=FILE_ONLY)
        if unused := unused_gpu():
            self.logger.warning(unused)
        self.message_hub = make_message_hub(self.experiment_name)
        self.visualizer = self.build_visualizer(visualizer)

    def _tell_config(self) -> None:
        """Log the resolved config, as checkpoints will hold it."""
        self.config_text = hide_secrets(self.cfg.pretty_text) if len(self.cfg) else ""
        if self.config_text:
            self.logger.info(f"Config:\n{self.config_text}", extra=FILE_ONLY)
            self.visualizer.add_config(self.cfg)

    @classmethod
    def from_cfg(cls, cfg: Config) -> "Runner":
        """Build a runner from a config whose keys are the arguments' names."""
        names = set(inspect.signature(Runner).parameters) - {"cfg"}
        given = {name: cfg[name] for name in names if name in cfg}
        return cls(**copy.deepcopy(given), cfg=cfg)

    @classmethod
    def build(cls, cfg: Config) -> "Runner":
        """Build the runner that a config asks for, by its ``runner_type`` where it has one.

        Raises:
            UserError: The run folder cannot be written to.
        """
        check_writable(Path(cfg.work_dir))
        kind = cfg.get("runner_type")
        runner: Runner = (cls if kind is None else RUNNERS.get(kind)).from_cfg(cfg)
        return runner

    def setup_env(self, env_cfg: Mapping[str, Any]) -> None:
        """Join the other processes and set what holds for the whole process.

        Args:
            env_cfg: mmengine's keys ``cudnn_benchmark``, ``mp_cfg``, ``dist_cfg``,
                ``resource_limit``.
        """
        join_processes(self.launcher, env_cfg)
        self.rank, self.world_size = processes.rank(), processes.world_size()
        self.facts = identity.of_config(self.cfg.to_dict())
        identity.agree(self.facts)
        apply_process_settings(self.cfg, env_cfg)
        self.timestamp = processes.time_of_start()
        self.lock = FolderLock(Path(self.work_dir))
        self.lock_warning = None
        if self._train_loop is not None and processes.is_main():
            self.lock_warning = self.lock.acquire()

    def set_randomness(
        self, seed: int | None = None, diff_rank_seed: bool = False, deterministic: bool = False
    ) -> None:
        """Seed the run.

        Args:
            seed: The run's seed; None draws one, which resuming takes over.
            diff_rank_seed: Kept for mmengine's configs; every process always draws differently.
            deterministic: Whether to give the same bits on every run (see ``device``).
        """
        self.seed, self.deterministic = seed_run(seed), deterministic
        if deterministic:
            be_deterministic()

    def dump_config(self) -> None:
        """Write the resolved config into the run folder, but never over the file it comes from.

        That of a test goes beside its log, so that the training's stays.
        """
        folder = Path(self.log_dir if self._train_loop is None else self.work_dir)
        build.dump_config(self.cfg, folder, f"{self.timestamp}.py")

    def train(self) -> nn.Module:
        """Train, from the beginning or from a checkpoint.

        Raises:
            Preempted: Somebody asked to stop; the state is saved.
        """
        if self.lock_warning is not None:
            self.logger.warning(self.lock_warning)
        self.control, begin = Control(self), time.monotonic()
        words = LogGuard("the summary of the run", self.logger.warning)
        with closing(self), telling_why(self.logger, lambda: f"iteration {self.iter + 1}"):
            try:
                self._choose_start()
                with self.control:
                    self.prepare_training()
                    self.call_hook("before_run")
                    if self.resumed.path is None:
                        build.init_weights(self.model)
                    build.turn_on_options(self.model, self.cfg)
                    self.load_or_resume()
                    self.optim_wrapper.initialize_count_status(
                        self.model, self.iter, self.max_iters
                    )
                    accumulated = getattr(self.optim_wrapper, "accumulative_counts", 1)
                    check_graphs(self.cfg.get("compile"), accumulated)
                    compile_network(self.model, self.cfg.get("compile"))
                    tell_pipelines(self.logger, train=self.train_loop, val=self.val_loop)
                    words.run(lambda: self.logger.info(console.describe_choices(self)))
                    model: nn.Module = self.train_loop.run()
                    self.call_hook("after_run")
                words.run(lambda: self.logger.info(console.describe_end(self, begin)))
                return model
            except Preempted as request:
                self.logger.warning(f"stopped: {request.reason}; --resume goes on from here")
                self.call_hook("after_run")
                raise

    def _choose_start(self) -> None:
        """Find the checkpoint to resume from, if any, and take over its seed."""
        self.checkpoints.own(self, self.lock)
        places = self.checkpoints.keeper.places
        self.resumed = resume.choose_start(places, self.wanted, self.logger.warning)
        self._resume = self.resumed.path is not None
        if self.resumed.seed is not None and self._randomness.get("seed") is None:
            self.set_randomness(**{**self._randomness, "seed": self.resumed.seed})

    def prepare_training(self) -> None:
        """Build what training needs beyond the network: loops, optimizer and schedulers.

        Raises:
            ConfigError: The config has no training loop.
        """
        if self.train_loop is None:
            raise ConfigError("train_cfg: needed to train, with train_dataloader and optim_wrapper")
        self.optim_wrapper = self.build_optim_wrapper(self.optim_wrapper)
        batch_total = batch_size_of(self.train_dataloader) * self.world_size
        build.scale_rates(self.optim_wrapper, self.auto_scale_lr, batch_total, self.logger)
        if self.param_schedulers is not None:
            self.param_schedulers = self.build_param_scheduler(self.param_schedulers)
        _ = self.val_loop  # built before the first iteration, so that its mistakes are told early
        identity.compare_data(self, "train", "val")

    def val(self) -> dict[str, float]:
        """Validate."""
        return self._evaluate("val_loop")

    def test(self) -> dict[str, float]:
        """Test."""
        return self._evaluate("test_loop")

    def _evaluate(self, name: str) -> dict[str, float]:
        self.control = Control(self)
        with closing(self), telling_why(self.logger, lambda: name.replace("_", " ")):
            loop = getattr(self, name)
            if loop is None:
                raise ConfigError(f"{name.replace('loop', 'cfg')}: needed, with loader and metrics")
            identity.compare_data(self, name.removesuffix("_loop"))
            self.call_hook("before_run")
            self.load_or_resume()
            tell_pipelines(self.logger, **{name.removesuffix("_loop"): loop})
            scores: dict[str, float] = loop.run()
            self.call_hook("after_run")
            return scores

    def close(self) -> None:
        """End the workers of all loaders and give the run folder back."""
        for loop in (self._train_loop, self._val_loop, self._test_loop):
            shut_down(getattr(loop, "dataloader", None))
        self.checkpoints.close()
        self.lock.release()

    def load_or_resume(self) -> None:
        """Restore the run that is resumed, or load weights to begin or test with."""
        if self.resumed.path is not None:
            self.restore(self.resumed)
            self.logger.info(f"resumed {self.resumed.path} at iteration {self.iter}")
        elif self._load_from is not None and not self._has_loaded:
            training = isinstance(self._train_loop, BaseLoop)
            self.load_checkpoint(self._load_from, strict=self.cfg.get("load_strict", not training))
        if self._has_loaded:
            identity.compare_weights(self.model)

    def restore(self, resumed: Resumed) -> None:
        """Hand each part of the run its state from a checkpoint, see ``resume.restore``."""
        self.resumed = resumed
        resume.restore(self, resumed)
        self._has_loaded = True

    def load_checkpoint(
        self,
        filename: str,
        map_location: Any = "cpu",
        strict: bool = True,
        revise_keys: Sequence[tuple[str, str]] = (),
    ) -> dict[str, Any]:
        """Load weights and log what was used; see ``RunnerProtocol``."""
        self._has_loaded = True
        return resume.load_weights(self, filename, strict=strict, revise_keys=revise_keys)

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
        """Save a checkpoint, as the hook and a stop do; see ``RunnerProtocol``."""
        extra = dict(meta or {})
        iteration = int(extra.pop("iter", self.iter + (not by_epoch)))
        epoch = int(extra.pop("epoch", self.epoch + by_epoch))
        self.checkpoints.write(
            self, Path(out_dir, filename), iteration, epoch,
            optimizer=save_optimizer, schedule=save_param_scheduler, extra=extra,
        )  # fmt: skip

    @property
    def checkpoints(self) -> CheckpointHook:
        """The hook that writes checkpoints."""
        return next(hook for hook in self.hooks if isinstance(hook, CheckpointHook))

    def register_hooks(self, default_hooks: Part = None, custom_hooks: Any = None) -> None:
        """Register the default hooks, changed by the config's, and those of the user.

        Args:
            default_hooks: Changes by name; None takes one away.
            custom_hooks: Hooks or their configs.
        """
        chosen = {**DEFAULT_HOOKS, **(default_hooks or {})}
        for hook in [*chosen.values(), *(custom_hooks or ())]:
            if hook is not None:
                self.register_hook(hook)
        if not any(isinstance(hook, CheckpointHook) for hook in self.hooks):
            self.register_hook(CheckpointHook(by_epoch=False, save_last=False))  # on request only

    def register_hook(self, hook: Any, priority: str | int | None = None) -> None:
        """Add a hook, or build one from its config, behind those of the same priority."""
        build.insert_hook(self.hooks, hook, priority)

    @property
    def iter(self) -> int:
        """Iterations trained; 0 before the training loop is built."""
        return getattr(self._train_loop, "iter", 0)

    @property
    def epoch(self) -> int:
        """Epochs trained; 0 before the training loop is built."""
        return getattr(self._train_loop, "epoch", 0)

    @property
    def train_loop(self) -> Any:
        """The training loop, built when it is first asked for; None without one."""
        if isinstance(self._train_loop, Mapping):
            self._train_loop = self.build_train_loop(self._train_loop)
        return self._train_loop

    @property
    def val_loop(self) -> Any:
        """The validation loop, built when it is first asked for; None without one."""
        if isinstance(self._val_loop, Mapping):
            self._val_loop = self.build_val_loop(self._val_loop)
        return self._val_loop

    @property
    def test_loop(self) -> Any:
        """The test loop, built when it is first asked for; None without one."""
        if isinstance(self._test_loop, Mapping):
            self._test_loop = self.build_test_loop(self._test_loop)
        return self._test_loop

    def build_train_loop(self, loop: Any) -> BaseLoop:
        """Build the training loop; without a type, by its ``by_epoch``."""
        built = build.build_train_loop(self, loop, self._loaders["train"])
        log_bad_samples(built.dataloader.dataset, Path(self.work_dir) / "bad_samples.jsonl")
        return built

    def build_val_loop(self, loop: Any) -> BaseLoop:
        """Build the validation loop."""
        built = build.build_eval_loop(
            self, loop, "ValLoop", self._loaders["val"], self._evaluators["val"]
        )
        every_image_once(built.dataloader.dataset)
        return built

    def build_test_loop(self, loop: Any) -> BaseLoop:
        """Build the test loop, which leaves scores of every class beside its log."""
        built = build.build_eval_loop(
            self, loop, "TestLoop", self._loaders["test"], self._evaluators["test"]
        )
        every_image_once(built.dataloader.dataset)
        choose_files(built.evaluator.metrics, built.dataloader.dataset, Path(self.log_dir))
        return built

    @staticmethod
    def build_dataloader(
        dataloader: Any, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Build a loader from its config; see ``RunnerProtocol``."""
        return build.build_dataloader(dataloader, seed)

    def build_evaluator(self, evaluator: Any) -> Evaluator:
        """Build an evaluator from the config of one metric or a list of them."""
        return build.build_evaluator(evaluator)

    def build_visualizer(self, visualizer: Any = None) -> Visualizer:
        """Build the visualizer, whose back ends cannot end a run."""
        return build.build_visualizer(visualizer, self.experiment_name, self.log_dir, self.logger)

    def build_model(self, model: Any) -> nn.Module:
        """Build the network from its config."""
        return build.build_model(model)

    def wrap_model(self, model_wrapper_cfg: Part, model: nn.Module) -> nn.Module:
        """Bring the network to its device and, with several processes, wrap it."""
        return build.wrap_model(model, self.cfg, model_wrapper_cfg, distributed=self.distributed)

    def build_optim_wrapper(self, optim_wrapper: Any) -> MMOptimWrapper:
        """Build the optimizer wrapper, which asks all processes before each step."""
        return build.build_wrapper(self.model, optim_wrapper, self.control.agreement)

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """Build schedulers: a list, or a dict of lists by the names of several optimizers."""
        return build.build_schedulers(scheduler, self.optim_wrapper, self)
