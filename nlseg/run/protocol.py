"""What hooks, loops and log processors may ask of a runner: its public face, written down.

mmengine's own hooks read about 30 of these members. A hook of nlseg or of a user names
``RunnerProtocol`` as the type of its ``runner`` and gets no more than that.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import LogProcessor
from mmengine.visualization import Visualizer
from torch import nn
from torch.utils.data import DataLoader

from nlseg.errors import ConfigError

if TYPE_CHECKING:
    from nlseg.run.control import Control
    from nlseg.run.resume import Resumed
    from nlseg.run.save import CheckpointHook
    from nlseg.run.state import RunState

PRIVATE_NAMES = {
    "_train_loop": "mmengine's LogProcessor and LoggerHook read it on a runner, to tell whether "
    "there is a training loop without building one",
    "_resume": "mmengine's EMAHook reads it on a runner, to tell a resume from loading weights",
    "_log_dir": "mmengine's LoggerHook reads it on a runner, to copy the log to out_dir",
    "_iter": "where a training loop that is derived from mmengine's keeps the iterations trained; "
    "a resume has no other way to set them",
    "_epoch": "the same for the epochs trained",
}
"""Every private name of mmengine that the package depends on, each with the reason."""


class TrainLoopProtocol(Protocol):
    """What hooks may ask of ``runner.train_loop``."""

    dataloader: DataLoader
    stop_training: bool
    """Set by a hook: training ends after this epoch or, where iterations count, this iteration."""
    val_begin: int
    val_interval: int

    @property
    def dataloader_iterator(self) -> Iterator[Any]:
        """The batches, being read."""

    @property
    def iter(self) -> int:
        """Iterations trained."""

    @property
    def epoch(self) -> int:
        """Epochs trained."""

    @property
    def max_iters(self) -> int:
        """Iterations to train."""

    @property
    def max_epochs(self) -> int:
        """Epochs to train; 1 where iterations are counted."""


class RunnerProtocol(Protocol):
    """What hooks, loops and log processors may ask of a runner.

    Attributes:
        cfg: The config of the run.
        config_text: The resolved config, with secrets hidden.
        model: The network, inside DistributedDataParallel with several processes.
        model_name: Class of the network.
        optim_wrapper: The optimizer wrapper; before training its config.
        param_schedulers: Schedulers, a list or one for each optimizer by name; None without any.
        scheduler_config: What the schedulers are built from.
        auto_scale_lr: Config of the learning rate's scaling with the batch size.
        hooks: The hooks in the order in which they are called.
        message_hub: Latest scalars and facts by name.
        logger: The run's log.
        log_processor: Turns the message hub into log lines.
        visualizer: Draws, and hands scalars to the logging back ends.
        default_scope: Registry scope that names in configs are looked up in.
        work_dir: The run folder: checkpoints, curves, config.
        log_dir: The folder of this start, inside the run folder: log and back ends.
        timestamp: When this start began, the same on all processes.
        experiment_name: Name of the run and its start.
        rank: Number of this process, from 0.
        world_size: Number of processes.
        distributed: Whether a launcher started the processes.
        launcher: Who started the processes.
        seed: The run's seed.
        deterministic: Whether the same bits come out of every run.
        facts: What the run is: config, data and code, see ``identity``.
        state: Where the run is; the loop writes it, everybody else reads.
        resumed: The checkpoint that the run was resumed from, if any.
        control: Agreement of processes, time limits, requests to stop.
    """

    cfg: Config
    config_text: str
    model: nn.Module
    model_name: str
    optim_wrapper: Any
    param_schedulers: Any
    scheduler_config: Any
    auto_scale_lr: Any
    hooks: list[Hook]
    message_hub: MessageHub
    logger: MMLogger
    log_processor: LogProcessor
    visualizer: Visualizer
    default_scope: DefaultScope | None
    work_dir: str
    log_dir: str
    timestamp: str
    experiment_name: str
    rank: int
    world_size: int
    distributed: bool
    launcher: str
    seed: int
    deterministic: bool
    facts: dict[str, str]
    state: "RunState"
    resumed: "Resumed"
    control: "Control"

    @property
    def train_loop(self) -> Any:
        """The training loop, see ``TrainLoopProtocol``; None where the config has none."""

    @property
    def val_loop(self) -> Any:
        """The validation loop; None where the config has none."""

    @property
    def test_loop(self) -> Any:
        """The test loop; None where the config has none."""

    @property
    def iter(self) -> int:
        """Iterations trained; in ``after_train_iter`` the present one, from 0."""
        ...

    @property
    def epoch(self) -> int:
        """Epochs trained; in ``after_train_epoch`` the present one, from 0."""
        ...

    @property
    def max_iters(self) -> int:
        """Iterations to train; 0 without a training loop."""
        return getattr(self.train_loop, "max_iters", 0)

    @property
    def max_epochs(self) -> int:
        """Epochs to train; 1 where iterations are counted, 0 without a training loop."""
        return getattr(self.train_loop, "max_epochs", 0)

    @property
    def val_begin(self) -> int:
        """First iteration or epoch after which to validate."""
        return getattr(self.train_loop, "val_begin", 1)

    @property
    def val_interval(self) -> int:
        """Iterations or epochs between validations."""
        return getattr(self.train_loop, "val_interval", 1)

    @property
    def train_dataloader(self) -> DataLoader:
        """The loader of the training loop."""
        loader: DataLoader = self.train_loop.dataloader
        return loader

    @property
    def val_dataloader(self) -> DataLoader:
        """The loader of the validation loop."""
        loader: DataLoader = self.val_loop.dataloader
        return loader

    @property
    def test_dataloader(self) -> DataLoader:
        """The loader of the test loop."""
        loader: DataLoader = self.test_loop.dataloader
        return loader

    @property
    def val_evaluator(self) -> Evaluator:
        """The evaluator of the validation loop."""
        return self.val_loop.evaluator

    @property
    def test_evaluator(self) -> Evaluator:
        """The evaluator of the test loop."""
        return self.test_loop.evaluator

    @property
    def checkpoints(self) -> "CheckpointHook":
        """The hook that writes checkpoints."""
        ...

    def call_hook(self, fn_name: str, **arguments: Any) -> None:
        """Call one method of all hooks that have it, with the runner as its first argument.

        Args:
            fn_name: Such as ``after_train_iter``, or a name that a user's own hooks share.
            arguments: What the method takes.
        """
        for hook in self.hooks:
            if hasattr(hook, fn_name):
                getattr(hook, fn_name)(self, **arguments)

    def get_hooks_info(self) -> str:
        """Return the names of the hooks in the order in which they are called."""
        return ", ".join(type(hook).__name__ for hook in self.hooks)

    def register_hook(self, hook: Hook | dict[str, Any], priority: str | int | None = None) -> None:
        """Add a hook behind those of the same priority.

        Args:
            hook: The hook or its config.
            priority: Name, or number from 0, called first, to 100; the hook's own when not given.
        """

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict[str, Any] | None = None,
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

        Raises:
            NonFiniteError: A weight is not finite.
            SaveError: The file cannot be written.
        """

    def load_checkpoint(
        self,
        filename: str,
        map_location: Any = "cpu",
        strict: bool = True,
        revise_keys: Sequence[tuple[str, str]] = (),
    ) -> dict[str, Any]:
        """Load weights into the network and log what was used.

        Args:
            filename: File, https address or published name.
            map_location: Kept for mmengine's callers; weights are read to the host.
            strict: Whether every weight must fit.
            revise_keys: Pairs (pattern, replacement) applied to the file's keys.

        Raises:
            CheckpointError: The file cannot be read, or does not fit.
        """
        ...

    def restore(self, resumed: "Resumed") -> None:
        """Hand each part of the run its state from a checkpoint."""

    def build_dataloader(
        self, dataloader: Any, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Build a loader from its config.

        Args:
            dataloader: The config, or a loader.
            seed: Seed of the sampler.
            diff_rank_seed: Kept for mmengine's loops; all processes share one stream of samples.
        """

    def build_evaluator(self, evaluator: Any) -> Evaluator:
        """Build an evaluator from the config of one metric or a list of them."""

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """Build an optimizer wrapper for the network from its config."""

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """Build schedulers for the optimizer from their configs."""

    def train(self) -> nn.Module:
        """Train, from the beginning or from a checkpoint."""
        ...

    def val(self) -> dict[str, float]:
        """Validate."""
        ...

    def test(self) -> dict[str, float]:
        """Test."""
        ...


def require_own_runner(runner: object) -> None:
    """Refuse mmengine's runner, which saves, resumes and stops in ways of its own.

    Raises:
        ConfigError: The runner keeps no state of the run.
    """
    if not hasattr(runner, "state"):
        raise ConfigError(
            f"{type(runner).__module__}.{type(runner).__name__}: nlseg's loops run in nlseg's "
            "runner; write 'from nlseg.run.runner import Runner' in place of mmengine's, the rest "
            "of the script stays"
        )
