"""The runner as others meet it: mmengine's hooks, users' hooks, loops, runners, constructors."""

import json
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import mmengine
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.runner import BaseLoop
from mmengine.runner import IterBasedTrainLoop as MMIterBasedTrainLoop
from mmengine.runner import Runner as MMRunner
from torch import nn

import nlseg
from nlseg.errors import CheckpointError, ConfigError
from nlseg.ops.non_local import NonLocal2d
from nlseg.registry import HOOKS, LOOPS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS, RUNNERS
from nlseg.run import checkpoint
from nlseg.run.control import Preempted
from nlseg.run.finite import NonFiniteError
from nlseg.run.loop import IterBasedTrainLoop
from nlseg.run.protocol import PRIVATE_NAMES, RunnerProtocol, TrainLoopProtocol
from nlseg.run.runner import Runner
from nlseg.run.step import OptimWrapper
from tests.run.rank_script import EPOCHS
from tests.run.runs import assert_same, curves, final, go_on, interrupt, train
from tests.run.tiny_segmentor import tiny_run
from tests.run.toy import toy_config

HOOK = "default_hooks.checkpoint"


def members(protocol: type) -> list[str]:
    """Return the public names that a protocol promises."""
    names = {*getattr(protocol, "__annotations__", {}), *vars(protocol)}
    return sorted(name for name in names if not name.startswith("_"))


@HOOKS.register_module(force=True)
class Probe(Hook):
    """Read everything that a hook may read, in every place where a hook is called."""

    seen: dict[str, set[str]]

    def __init__(self) -> None:
        Probe.seen = {}

    def _read(self, runner: Any, stage: str) -> None:
        values = {name: getattr(runner, name) for name in members(RunnerProtocol)}
        loop = {name: getattr(runner.train_loop, name) for name in members(TrainLoopProtocol)}
        Probe.seen[stage] = {*values, *(f"train_loop.{name}" for name in loop)}

    def before_train(self, runner: Any) -> None:
        self._read(runner, "before_train")

    def _before_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, mode: str = "train"
    ) -> None:
        self._read(runner, f"before_{mode}_iter")

    def _after_epoch(self, runner: Any, mode: str = "train") -> None:
        self._read(runner, f"after_{mode}_epoch")

    def after_run(self, runner: Any) -> None:
        self._read(runner, "after_run")


def test_a_hook_may_read_all_that_the_protocol_promises(tmp_path: Path) -> None:
    config = toy_config(tmp_path, iters=4, custom_hooks=[{"type": "Probe"}])
    train(config)
    assert len(members(RunnerProtocol)) > 45
    assert "train_loop.dataloader_iterator" in Probe.seen["before_train_iter"]
    stages = {"before_train", "before_train_iter", "before_val_iter", "after_train_epoch",
              "after_val_epoch", "after_run"}  # fmt: skip
    assert set(Probe.seen) == stages
    assert all(len(names) == len(Probe.seen["after_run"]) for names in Probe.seen.values())


STOCK = {
    "CheckpointHook": {"interval": 4, "by_epoch": False, "save_best": "mIoU"},
    "DistSamplerSeedHook": {},
    "EarlyStoppingHook": {"monitor": "mIoU", "patience": 99},
    "EMAHook": {"momentum": 0.1},
    "EmptyCacheHook": {"after_iter": True},
    "IterTimerHook": {},
    "LoggerHook": {"interval": 2},
    "ParamSchedulerHook": {},
    "ProfilerHook": {"by_epoch": False, "profile_times": 2},
    "RuntimeInfoHook": {},
    "SyncBuffersHook": {},
}
ONLY_WATCH = {"EmptyCacheHook", "IterTimerHook", "LoggerHook", "ProfilerHook", "SyncBuffersHook"}


@pytest.mark.parametrize("epochs", [False, True], ids=["iterations", "epochs"])
@pytest.mark.parametrize("name", STOCK)
def test_mmengines_own_hooks_run(tmp_path: Path, name: str, epochs: bool) -> None:
    """Each as mmengine wrote it, beside ours; one that only watches changes no weight."""
    changes = EPOCHS if epochs else {}
    hook = {"type": f"mmengine.{name}", **STOCK[name]}
    last = "epoch_2.pth" if epochs else "iter_12.pth"
    runner = train(toy_config(tmp_path / "with", custom_hooks=[hook], **changes))
    assert any(type(hook).__module__.startswith("mmengine") for hook in runner.hooks)
    assert (tmp_path / "with" / last).is_file()
    if name in ONLY_WATCH:
        train(toy_config(tmp_path / "without", **changes))
        one, other = (final(tmp_path / folder, last) for folder in ("with", "without"))
        assert_same(one["state_dict"], other["state_dict"])


def test_early_stopping_ends_training_and_the_last_state_is_the_one_that_was_validated(
    tmp_path: Path,
) -> None:
    stop = {"type": "EarlyStoppingHook", "monitor": "mIoU", "stopping_threshold": 0.0}
    runner = train(toy_config(tmp_path, custom_hooks=[stop]))
    assert runner.iter == 4
    assert {path.name for path in tmp_path.glob("*.pth")} == {"iter_4.pth"}


def test_stock_averages_resume_exactly(tmp_path: Path) -> None:
    average = {"custom_hooks": [{"type": "mmengine.EMAHook", "momentum": 0.1}]}
    train(toy_config(tmp_path / "whole", **average))
    parts = toy_config(tmp_path / "parts", **average)
    interrupt(parts, 6)
    go_on(parts)
    assert_same(final(tmp_path / "whole"), final(tmp_path / "parts"))


def test_stock_logger_copies_its_log(tmp_path: Path) -> None:
    for kind in ("mmengine.LoggerHook", "LoggerHook"):
        out = tmp_path / kind
        logger = {"_delete_": True, "type": kind, "out_dir": str(out), "interval": 2}
        train(toy_config(tmp_path / "run", iters=4, **{"default_hooks.logger": logger}))
        (log,) = out.glob("run/*.log")
        assert "Iter(train) [4/4]" in log.read_text()


@LOOPS.register_module(force=True)
class TwiceLoop(MMIterBasedTrainLoop):
    """A user's loop, derived from mmengine's, that notes what it trained on."""

    batches: list[Any]

    def __init__(self, runner: Any, dataloader: Any, max_iters: int, factor: int = 1) -> None:
        super().__init__(runner, dataloader, max_iters * factor, val_interval=4)
        TwiceLoop.batches = []

    def run_iter(self, data_batch: Any) -> None:
        TwiceLoop.batches.append(torch.stack(list(data_batch["inputs"])))
        super().run_iter(data_batch)


def users_loop(folder: Path, **changes: Any) -> Any:
    loop = {"_delete_": True, "type": "TwiceLoop", "max_iters": 6, "factor": 2}
    return toy_config(folder, train_cfg=loop, **changes)


def test_a_loop_derived_from_mmengines_trains_as_ours(tmp_path: Path) -> None:
    train(users_loop(tmp_path / "theirs"))
    assert len(TwiceLoop.batches) == 12
    train(toy_config(tmp_path / "ours"))
    theirs, ours = (final(tmp_path / name) for name in ("theirs", "ours"))
    assert_same(theirs["state_dict"], ours["state_dict"])
    assert_same(theirs["optimizer"], ours["optimizer"])


def test_a_loop_derived_from_mmengines_stops_on_request_and_resumes_exactly(tmp_path: Path) -> None:
    train(users_loop(tmp_path / "whole"))
    parts = users_loop(tmp_path / "parts")
    interrupt(parts, 5)
    assert (tmp_path / "parts/iter_6.pth").is_file()
    runner = go_on(parts)
    assert runner.iter == 12
    assert len(TwiceLoop.batches) == 6
    assert_same(final(tmp_path / "whole")["state_dict"], final(tmp_path / "parts")["state_dict"])


def test_a_number_that_is_not_finite_is_met_in_a_users_loop(tmp_path: Path) -> None:
    poison = {"train_dataloader.dataset.poison": (21,)}
    with pytest.raises(NonFiniteError, match="iteration 6: a loss or gradient is not finite"):
        train(users_loop(tmp_path / "stop", **poison))
    runner = train(
        users_loop(tmp_path / "skip", **poison, non_finite={"policy": "skip", "limit": 1})
    )
    assert runner.state.skipped == 1
    assert all(weight.isfinite().all() for weight in runner.model.state_dict().values())


def test_a_users_loop_cannot_roll_back_and_says_so(tmp_path: Path) -> None:
    rollback = {"non_finite": {"policy": "rollback", "limit": 3}}
    with pytest.raises(ConfigError, match="TwiceLoop cannot roll back; choose 'stop' or 'skip'"):
        train(users_loop(tmp_path, **rollback))


@LOOPS.register_module(force=True)
class BareLoop(BaseLoop):
    """A user's loop with nothing but what mmengine's base class demands."""

    def __init__(self, runner: Any, dataloader: Any, steps: int) -> None:
        super().__init__(runner, dataloader)
        self.steps, self.iter = steps, 0

    def run(self) -> Any:
        self.runner.call_hook("before_train")
        batches = iter(self.dataloader)
        for _ in range(self.steps):
            batch = next(batches)
            self.runner.call_hook("before_train_iter", batch_idx=self.iter, data_batch=batch)
            outputs = self.runner.model.train_step(batch, optim_wrapper=self.runner.optim_wrapper)
            self.runner.call_hook(
                "after_train_iter", batch_idx=self.iter, data_batch=batch, outputs=outputs
            )
            self.iter += 1
        self.runner.call_hook("after_train")
        return self.runner.model


def test_a_loop_of_the_users_own_runs_and_one_that_cannot_be_resumed_says_so(
    tmp_path: Path,
) -> None:
    loop = {"_delete_": True, "type": "BareLoop", "steps": 4}
    changes = {"train_cfg": loop, "default_hooks.timer": None, "param_scheduler": None,
               "default_hooks.logger": None}  # fmt: skip
    runner = train(toy_config(tmp_path, **changes))
    assert runner.iter == 4
    assert (tmp_path / "iter_4.pth").is_file()
    with pytest.raises(CheckpointError, match=r"iter_4\.pth: BareLoop offers no load_state_dict"):
        go_on(toy_config(tmp_path, **changes))


@RUNNERS.register_module(force=True)
class PatientRunner(Runner):
    """A user's runner."""

    def build_model(self, model: Any) -> nn.Module:
        built = super().build_model(model)
        nn.init.constant_(built.head.bias, 7.0)
        return built


def test_a_users_runner_is_built_by_its_name_and_its_methods_are_called(tmp_path: Path) -> None:
    runner = Runner.build(toy_config(tmp_path, iters=4, runner_type="PatientRunner"))
    assert type(runner) is PatientRunner
    assert runner.model.head.bias.tolist() == [7.0] * 3
    runner.train()
    assert runner.iter == 4


def test_a_method_that_only_mmengines_runner_would_call_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Wrong\._maybe_compile: nlseg's runner calls no such"):

        class Wrong(Runner):
            def _maybe_compile(self, target: str) -> None: ...


@OPTIM_WRAPPER_CONSTRUCTORS.register_module(force=True)
class SlowHead(DefaultOptimWrapperConstructor):
    """A user's constructor: the head learns ``paramwise_cfg.factor`` times as fast."""

    def __call__(self, model: nn.Module) -> OptimWrapper:
        factor = self.paramwise_cfg["factor"]
        settings = self.optimizer_cfg.copy()
        settings.pop("type")
        groups = [
            {"params": list(model.body.parameters())},
            {"params": list(model.head.parameters()), "lr": settings["lr"] * factor},
        ]
        return OptimWrapper(torch.optim.SGD(groups, **settings))


def test_a_users_optimizer_constructor_builds_the_groups(tmp_path: Path) -> None:
    changes = {"optim_wrapper.constructor": "SlowHead",
               "optim_wrapper.paramwise_cfg": {"factor": 0.5}}  # fmt: skip
    train(toy_config(tmp_path / "whole", **changes))
    groups = final(tmp_path / "whole")["optimizer"]["param_groups"]
    assert [group["initial_lr"] for group in groups] == [0.1, 0.05]
    parts = toy_config(tmp_path / "parts", **changes)
    interrupt(parts, 6)
    go_on(parts)
    assert_same(final(tmp_path / "whole"), final(tmp_path / "parts"))


@MODELS.register_module(force=True)
class OwnStep(BaseModel):
    """A user's network with a training step of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, *_: Any, **__: Any) -> None:
        raise AssertionError("its own step does not call this")

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, torch.Tensor]:
        loss = self.head(torch.stack(list(data["inputs"]))).square().mean()
        optim_wrapper.update_params(loss)
        return {"loss": loss}


def test_a_networks_own_training_step_is_taken(tmp_path: Path) -> None:
    none = {"val_dataloader": None, "val_cfg": None, "val_evaluator": None}
    model = {"_delete_": True, "type": "OwnStep"}
    runner = train(toy_config(tmp_path, iters=8, model=model, **none))
    losses = runner.message_hub.get_scalar("train/loss").last(8)
    assert losses[-1] < losses[0] / 2


@HOOKS.register_module(force=True)
class Counting(Hook):
    """A user's hook with a state."""

    def __init__(self) -> None:
        self.calls = 0

    def after_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        self.calls += 1

    def state_dict(self) -> dict[str, int]:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.calls = state["calls"]


def test_a_hooks_state_is_saved_and_restored(tmp_path: Path) -> None:
    hooks = [{"type": "Counting"}, {"type": "Counting"}]
    config = toy_config(tmp_path, custom_hooks=hooks)
    interrupt(config, 6)
    runner = go_on(config)
    assert [hook.calls for hook in runner.hooks if isinstance(hook, Counting)] == [12, 12]
    assert final(tmp_path)["hooks"] == {"Counting": {"calls": 12}, "Counting 1": {"calls": 12}}


@HOOKS.register_module(force=True)
class SaveMine(Hook):
    """A user's hook that saves, at iteration ``at``, after it has spoiled a weight if asked to."""

    def __init__(self, at: int, spoil: bool = False, folder: str | None = None) -> None:
        self.at, self.spoil, self.folder = at, spoil, folder

    def after_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        if runner.iter + 1 == self.at:
            if self.spoil:
                with torch.no_grad():
                    runner.model.head.weight[0, 0] = float("nan")
            folder = self.folder or runner.work_dir
            meta = {"note": "mine"}
            runner.save_checkpoint(folder, f"iter_{self.at}.pth", meta=meta, by_epoch=False)


def test_save_checkpoint_writes_record_and_pointer_and_drops_old_ones(tmp_path: Path) -> None:
    mine = {"type": "SaveMine", "at": 6}
    keep = {f"{HOOK}.interval": 4, f"{HOOK}.max_keep_ckpts": 2}
    with pytest.raises(Preempted):  # the run's own last save would move the pointer on
        train(toy_config(tmp_path, custom_hooks=[mine, {"type": "SignalAt", "at": 6}], **keep))
    names = {path.name for path in tmp_path.glob("*.pth")}
    assert names == {"iter_6.pth", "iter_7.pth"}
    record = checkpoint.read_record(tmp_path / "iter_6.pth")
    assert record is not None
    assert record.iter == 6
    assert checkpoint.damage(tmp_path / "iter_6.pth") is None
    assert final(tmp_path, "iter_6.pth")["meta"]["note"] == "mine"
    assert (tmp_path / "last_checkpoint").read_text() == "iter_7.pth"


def test_save_checkpoint_moves_the_pointer_and_a_resume_goes_on_from_there(tmp_path: Path) -> None:
    config = toy_config(tmp_path, iters=12, custom_hooks=[{"type": "SaveMine", "at": 6}],
                        **{"train_dataloader.dataset.poison": (26,)})  # fmt: skip
    with pytest.raises(NonFiniteError):
        train(config)
    assert (tmp_path / "last_checkpoint").read_text() == "iter_6.pth"
    assert checkpoint.newest(tmp_path)[0] == tmp_path / "iter_6.pth"


def test_save_checkpoint_into_another_folder_drops_nothing_there(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    hooks = [{"type": "SaveMine", "at": at, "folder": str(other)} for at in (2, 3)]
    train(
        toy_config(tmp_path / "run", iters=4, custom_hooks=hooks, **{f"{HOOK}.max_keep_ckpts": 1})
    )
    assert {path.name for path in other.glob("*.pth")} == {"iter_2.pth", "iter_3.pth"}


def test_save_checkpoint_refuses_weights_that_are_not_finite(tmp_path: Path) -> None:
    mine = {"type": "SaveMine", "at": 6, "spoil": True}
    with pytest.raises(NonFiniteError, match="iteration 6: weights are not finite; not saved"):
        train(toy_config(tmp_path, custom_hooks=[mine]))
    assert {path.name for path in tmp_path.glob("*.pth")} == {"iter_4.pth"}


def test_stop_saves_where_the_config_has_no_hook_that_saves(tmp_path: Path) -> None:
    config = toy_config(tmp_path, **{"default_hooks.checkpoint": None})
    interrupt(config, 5)
    assert {path.name for path in tmp_path.glob("*.pth")} == {"iter_6.pth"}
    assert go_on(config).iter == 12
    assert {path.name for path in tmp_path.glob("*.pth")} == {"iter_6.pth"}


def test_a_run_writes_two_files_of_scalars(tmp_path: Path) -> None:
    runner = train(toy_config(tmp_path, iters=4))
    found = {
        str(path.relative_to(tmp_path))
        for path in tmp_path.rglob("*.json*")
        if ".pth" not in path.name
    }
    theirs = f"{runner.timestamp}/vis_data/scalars.json"
    assert found == {"scalars.jsonl", theirs}
    lines = [json.loads(line) for line in (tmp_path / theirs).read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses == [line["loss"] for line in curves(tmp_path) if "loss" in line]


def test_the_hub_that_everybody_asks_is_the_runs(tmp_path: Path) -> None:
    runner = Runner.from_cfg(toy_config(tmp_path, iters=4))
    assert MessageHub.get_current_instance() is runner.message_hub


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("train_cfg", "train_cfg: needed beside train_dataloader and optim_wrapper"),
        ("val_evaluator", "val_evaluator: needed beside val_dataloader and val_cfg"),
    ],
)
def test_a_loop_without_its_parts_is_refused(tmp_path: Path, missing: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Runner.from_cfg(toy_config(tmp_path, **{missing: None}))


def test_a_run_without_a_part_says_what_is_missing(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("test_cfg", "test_dataloader", "test_evaluator"))
    with pytest.raises(ConfigError, match="test_cfg: needed, with loader and metrics"):
        Runner.from_cfg(toy_config(tmp_path, **nothing)).test()


def test_private_names_of_mmengine_are_few_and_have_reasons() -> None:
    assert len(PRIVATE_NAMES) <= 5
    assert all(len(reason) > 30 for reason in PRIVATE_NAMES.values())
    source = Path(mmengine.__file__).parent
    text = "".join(path.read_text() for path in source.rglob("*.py"))
    assert all(name in text for name in PRIVATE_NAMES)


def test_an_iteration_enters_few_files_and_reaches_the_block_in_few_calls(tmp_path: Path) -> None:
    package = str(Path(nlseg.__file__).parent)
    config = tiny_run(tmp_path, iters=6)
    config.train_dataloader.num_workers = 2
    runner = Runner.from_cfg(config)
    entered: dict[int, set[str]] = {}
    depths: set[int] = set()

    def enter(frame: FrameType, event: str, argument: object) -> None:
        path = frame.f_code.co_filename
        if event != "call" or not path.startswith(package):
            return
        entered.setdefault(runner.iter, set()).add(path)
        if frame.f_code is NonLocal2d.forward.__code__:
            above = []
            caller = frame.f_back
            while caller is not None and caller.f_code is not IterBasedTrainLoop.run_iter.__code__:
                if caller.f_code.co_filename.startswith(package):
                    above.append(caller.f_code.co_name)
                caller = caller.f_back
            depths.add(above.index("training_step"))

    sys.setprofile(enter)
    try:
        runner.train()
    finally:
        sys.setprofile(None)
    assert len(entered[3]) <= 30
    assert max(depths) <= 5


def test_mmengines_runner_is_refused_with_the_import_to_write(tmp_path: Path) -> None:
    config = toy_config(tmp_path)
    with pytest.raises(ConfigError, match=r"from nlseg\.run\.runner import Runner"):
        MMRunner.from_cfg(config).train()
