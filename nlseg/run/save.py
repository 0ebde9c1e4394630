"""When to save: at an interval, at the end and on request, and what to do when that fails."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from mmengine.hooks import Hook

from nlseg.bounds import Range
from nlseg.datasets.transforms.decode import file_backend
from nlseg.errors import ConfigError, UserError
from nlseg.evaluation.scores import beside_mean, unscored_by
from nlseg.registry import HOOKS
from nlseg.run import checkpoint, processes, space
from nlseg.run.background import Saver
from nlseg.run.best_scores import BestScores
from nlseg.run.checkpoint import SaveError, plain
from nlseg.run.folder import FolderLock
from nlseg.run.keeper import STOPGAP, Keeper, best_name, publish
from nlseg.run.logs import open_again
from nlseg.run.places import Places, fallback_folders
from nlseg.run.protocol import RunnerProtocol
from nlseg.run.state import collect

Rule = Literal["greater", "less"]
_LONGEST_PAUSE_S = 60.0


@dataclass(frozen=True)
class Trouble:
    """Saves that have failed since the last one that did not.

    Args:
        error: Why the latest one failed.
        since: When the first one failed, in seconds of the monotonic clock.
        next_try: When to try again.
        attempts: How many have failed.
    """

    error: OSError
    since: float
    next_try: float
    attempts: int = 1

    @classmethod
    def after(cls, error: OSError, before: "Trouble | None") -> "Trouble":
        """Note another failure; pauses double up to a minute."""
        now, attempts = time.monotonic(), before.attempts + 1 if before else 1
        pause = min(2.0**attempts, _LONGEST_PAUSE_S)
        return cls(error, before.since if before else now, now + pause, attempts)


@HOOKS.register_module()
class CheckpointHook(Hook):
    """Save checkpoints that survive a crash, keep the newest and the best.

    Before the first iteration one save of the true size is tried, and the room for all files is
    checked. A save that fails is tried again, then goes to a fallback folder. Where none can be
    written, training continues for ``save_limit`` minutes with further attempts, and then stops.
    The save at the end, or on a request to stop, is tried for as long. While gradients are
    accumulated, a save is put off to the next optimizer step, where the state is complete.

    Args:
        interval: Epochs or iterations between checkpoints; -1 saves at the end only.
        by_epoch: Whether to count epochs.
        save_optimizer: Whether to save the optimizer, without which no run can be resumed.
        save_param_scheduler: Whether to save the schedulers.
        out_dir: Other folder; checkpoints go to a folder of the run folder's name in it.
        max_keep_ckpts: How many to keep; -1 keeps all. The best ones do not count.
        save_last: Whether to save at the end whatever the interval.
        save_best: Score or scores whose best checkpoint is kept; 'auto' takes the first.
        rule: 'greater' or 'less' is better, for each score or for all; None guesses by name.
        greater_keys: Words in names of scores of which more is better, where ``rule`` is None.
        less_keys: Words in names of scores of which less is better.
        backend_args: Only ``dict(backend='local')``: files are held to be whole on the disk, which
            no remote store promises. Copy them from ``out_dir`` on a mounted one.
        file_client_args: ``backend_args`` in older configs; only ``dict(backend='disk')``.
        filename_tmpl: Name with {} for the number; None for epoch_{}.pth or iter_{}.pth.
        published_keys: Entries that a copy for others, written at the end, holds.
        save_begin: First epoch or iteration to save at.
        background: Write files while training continues.
        fallback_dir: Where checkpoints go when their folder cannot be written; after it, or
            without it, folders for temporary files are tried, on other file systems first.
        save_limit: Minutes after which a run stops whose checkpoints can be written nowhere.

    Raises:
        ConfigError: Files would go elsewhere than to a local folder.
    """

    priority = "VERY_LOW"

    def __init__(
        self,
        interval: int = -1,
        by_epoch: bool = True,
        *,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        out_dir: str | None = None,
        max_keep_ckpts: int = -1,
        save_last: bool = True,
        save_best: str | Sequence[str] | None = None,
        rule: Rule | Sequence[Rule] | None = None,
        greater_keys: Sequence[str] | None = None,
        less_keys: Sequence[str] | None = None,
        backend_args: Mapping[str, Any] | None = None,
        file_client_args: Mapping[str, Any] | None = None,
        filename_tmpl: str | None = None,
        published_keys: str | Sequence[str] | None = None,
        save_begin: int = 0,
        background: bool = False,
        fallback_dir: str | None = None,
        save_limit: Annotated[float, Range(0)] = 10.0,
    ) -> None:
        where = file_backend("CheckpointHook", backend_args, file_client_args)
        if where is not None and where.get("backend") != "local":
            raise ConfigError(
                f"CheckpointHook.backend_args: {dict(where)} is not local; give out_dir a mounted "
                "folder and leave this out"
            )
        self.interval, self.by_epoch, self.save_begin = interval, by_epoch, save_begin
        self.save_optimizer, self.save_param_scheduler = save_optimizer, save_param_scheduler
        self.out_dir, self.save_last = out_dir, save_last
        template = filename_tmpl or ("epoch_{}.pth" if by_epoch else "iter_{}.pth")
        self.keeper = Keeper(Path(), template, max_keep_ckpts)
        keys = [save_best] if isinstance(save_best, str) else list(save_best or [])
        rules = [rule] if rule is None or isinstance(rule, str) else list(rule)
        self.best = BestScores(keys, rules, greater_keys or (), less_keys or ())
        published = [published_keys] if isinstance(published_keys, str) else published_keys
        self.published_keys = list(published or [])
        self.saver = Saver(background)
        self.saved: tuple[int, Path] | None = None
        self.put_off: int | None = None
        self.prepared = self.tried = False
        self.fallback_dir, self.save_limit_s = fallback_dir, 60 * save_limit
        self.trouble: Trouble | None = None
        self.gave_up = False

    def place(self, runner: RunnerProtocol) -> Path:
        """Return the folder that checkpoints go to."""
        return places_of(self, Path(runner.work_dir)).folder

    def own(self, runner: RunnerProtocol, lock: FolderLock) -> None:
        """Take the folder that checkpoints go to; nobody else may write there.

        Args:
            runner: The runner.
            lock: That of the run folder.

        Raises:
            UserError: Another run writes there.
        """
        places = places_of(self, Path(runner.work_dir))
        folder = places.folder
        folder.mkdir(parents=True, exist_ok=True)
        if processes.is_main() and lock.path.parent.resolve() != folder.resolve():
            lock = FolderLock(folder)
            if warning := lock.acquire():
                runner.logger.warning(warning)
        self.keeper.places = Places(
            folder, places.fallbacks, lock, runner.logger.warning,
            lambda: open_again(runner.logger),
        )  # fmt: skip

    def close(self) -> None:
        """Wait until everything is written, and give the folders back."""
        self.saver.wait()
        self.keeper.places.close()

    def before_train(self, runner: RunnerProtocol) -> None:
        """Take over the best scores of a run that is resumed, and try a save.

        Raises:
            UserError: No checkpoint can be written, or there is no room for those to come.
        """
        self.best.kept = runner.state.best
        resumed, progress = runner.resumed, self._progress(runner)
        if resumed.path is not None:
            self.saved = (runner.iter, resumed.path)
            if processes.is_main():
                self.keeper.tidy_up(resumed.path, progress)
        if resumed.scores and self.best.keys:
            self._note_best(resumed.scores, progress)
        if not self.tried:
            self.tried = True
            self._try_out(runner)
            if self.saved is None and runner.control.guard.policy == "rollback":
                name = self._unscheduled(runner.iter)  # so that there is one to go back to
                self.save(runner, name, runner.iter, runner.epoch, must=True)

    def _try_out(self, runner: RunnerProtocol) -> None:
        """Find out before the first iteration whether checkpoints can be written."""
        refusal = ""
        if processes.is_main():
            runner.control.watch("saving")
            state = plain(self._collect(runner, runner.iter, runner.epoch))
            try:
                self.keeper.places.enter()
                found = space.check(self._budget(runner, state), state)
                fallback = next(iter(self.keeper.places.fallbacks), None)
                then = f"; if they cannot be written there: {fallback}" if fallback else ""
                runner.logger.info(f"{found}{then}")
            except UserError as error:
                refusal = str(error)
        if refusal := processes.broadcast_text(refusal):
            raise UserError(refusal)
        runner.control.watch("start")

    def _budget(self, runner: RunnerProtocol, state: Mapping[str, Any]) -> space.Budget:
        goal = runner.max_epochs if self.by_epoch else runner.max_iters
        planned = (
            max((goal - self._progress(runner)) // self.interval, 1) if self.interval > 0 else 1
        )
        kept = min(self.keeper.most, planned) if self.keeper.most > 0 else 1
        optimizer = getattr(runner.optim_wrapper, "optimizer", None)
        missing = space.optimizer_growth(optimizer) if self.save_optimizer else 0
        inodes = {path.stat().st_ino for path in self.keeper.folder.glob("*.pth")}
        return space.Budget(
            self.keeper.folder,
            size=checkpoint.bytes_in(state) + missing,
            missing=missing,
            kept=kept,
            best=len(self.best.keys),
            present=min(len(inodes), kept + len(self.best.keys)),
            more=planned - kept if self.keeper.most <= 0 else 0,
            background=self.saver.background,
        )

    def _progress(self, runner: RunnerProtocol) -> int:
        return runner.epoch if self.by_epoch else runner.iter

    def after_train_iter(
        self, runner: RunnerProtocol, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Save after the iteration where that is due."""
        done = runner.iter + 1
        last = self.save_last and done == runner.max_iters
        if self.saver.background and not self.prepared and processes.is_main():
            self.prepared = True
            self.saver.prepare(self._collect(runner, done, runner.epoch))
        if self.put_off is not None:
            number = self.put_off if self.by_epoch else done
            self._save_or_put_off(runner, number, done, runner.epoch)
        elif not self.by_epoch and (self._on_interval(done) or last):
            self._save_or_put_off(runner, done, done, runner.epoch)
        elif self.trouble is not None:
            self._think_again(runner, self.trouble)

    def _think_again(self, runner: RunnerProtocol, trouble: Trouble) -> None:
        """While saving fails: ask all processes for another attempt, or for an end of the run."""
        now = time.monotonic()
        if now - trouble.since > self.save_limit_s and not self.gave_up:
            self.gave_up = True
            runner.control.requests.ask(
                f"no checkpoint could be written for {(now - trouble.since) / 60:.1f} minutes"
            )
        elif now > trouble.next_try:
            self.trouble = replace(trouble, next_try=now + _LONGEST_PAUSE_S)
            runner.control.agreement.ask_to_save()

    def after_train_epoch(self, runner: RunnerProtocol) -> None:
        """Save after the epoch where that is due."""
        done = runner.epoch + 1
        last = self.save_last and done == runner.max_epochs
        if self.by_epoch and (self._on_interval(done) or last):
            self._save_or_put_off(runner, done, runner.iter, done)

    def _on_interval(self, done: int) -> bool:
        since = done - self.save_begin
        return self.interval > 0 and since >= 0 and since % self.interval == 0

    def _save_or_put_off(
        self, runner: RunnerProtocol, number: int, iteration: int, epoch: int
    ) -> None:
        if runner.control.is_accumulating():
            self.put_off = number
            return
        self.put_off = None
        last = iteration == runner.max_iters
        self.save(runner, self.keeper.template.format(number), iteration, epoch, must=last)
        if self.trouble is not None:
            self._think_again(runner, self.trouble)

    def save_again(self, runner: RunnerProtocol, iteration: int | None = None) -> None:
        """Between two iterations: try once more to save, after saves that have failed.

        Args:
            runner: The runner.
            iteration: Iterations trained, where the loop has not counted the present one yet.
        """
        iteration = runner.iter if iteration is None else iteration
        if self.saved is None or self.saved[0] != iteration:
            self.save(runner, self._unscheduled(iteration), iteration, runner.epoch, must=False)

    def _unscheduled(self, iteration: int) -> str:
        """Return the name of a checkpoint that is written at any iteration."""
        return (STOPGAP if self.by_epoch else self.keeper.template).format(iteration)

    def save_now(self, runner: RunnerProtocol, iteration: int | None = None) -> Path | None:
        """Save the state between two iterations, unless that has just been done.

        Args:
            runner: The runner.
            iteration: Iterations trained, where the loop has not counted the present one yet.

        Returns:
            The checkpoint of this very state.
        """
        iteration = runner.iter if iteration is None else iteration
        if self.saved is None or self.saved[0] != iteration:
            name = self._unscheduled(iteration)
            self.save(runner, name, iteration, runner.epoch, must=True)
        self.finish(runner, must=True)
        return self.keeper.find(self.saved[1].name) if self.saved else None

    def save(
        self, runner: RunnerProtocol, name: str, iteration: int, epoch: int, *, must: bool
    ) -> None:
        """Write a checkpoint into the hook's folder; called by all processes.

        Args:
            runner: The runner.
            name: File name.
            iteration: Iterations trained.
            epoch: Epochs trained.
            must: Whether to try on until the limit of time, and then to end training.

        Raises:
            SaveError: It must be written, and could be written nowhere.
        """
        runner.control.watch("saving")
        runner.logger.info(f"Saving checkpoint {name} at iteration {iteration}")
        path = self.keeper.folder / name
        started, again = time.monotonic(), True
        while again:
            written = self.write(runner, path, iteration, epoch, must=False)
            again = must and self._is_to_try_again(runner, started)
        if self._wait_for_writer(written, must):
            self.saved = (iteration, path)

    def _is_to_try_again(self, runner: RunnerProtocol, started: float) -> bool:
        """Wait until a save is over, and a while where it has failed; the same on all processes.

        Raises:
            SaveError: It has failed for too long; the error of process 0 tells why.
        """
        self.saver.wait()
        self.report()
        runner.control.watch("saving")
        trouble, now = self.trouble, time.monotonic()
        over = self.gave_up or now - started > self.save_limit_s
        verdict = torch.tensor(0 if trouble is None else 2 if over else 1)
        verdict = processes.broadcast(verdict)
        if verdict == 2:
            raise SaveError(
                f"no checkpoint could be written for {(now - trouble.since) / 60:.1f} minutes: "
                f"{trouble.error}; {self._what_there_is()}"
                if trouble
                else ""
            )
        if trouble is not None:
            time.sleep(max(trouble.next_try - now, 0))
        return bool(verdict == 1)

    def _what_there_is(self) -> str:
        """Say which whole checkpoint this run has; each file is read for that."""
        for folder in (self.keeper.folder, *self.keeper.places.used):
            path = checkpoint.newest(folder)[0]
            if path is not None:
                return f"the newest whole checkpoint is {path}"
        return "there is no whole checkpoint of this run"

    def write(
        self,
        runner: RunnerProtocol,
        path: Path,
        iteration: int,
        epoch: int,
        *,
        optimizer: bool | None = None,
        schedule: bool | None = None,
        extra: Mapping[str, Any] | None = None,
        must: bool = True,
    ) -> bool:
        """Write a checkpoint: the one way for hooks, requests to stop and ``save_checkpoint``.

        Process 0 collects the state, refuses one that is not finite, writes the file and its
        record, moves the pointer, and drops older files; the other processes write nothing.

        Args:
            runner: The runner.
            path: The file; older ones are dropped where its folder and name are the hook's.
            iteration: Iterations trained.
            epoch: Epochs trained.
            optimizer: Whether to save the optimizer; as the hook does when not given.
            schedule: Whether to save the schedulers; as the hook does when not given.
            extra: More entries of ``meta``.
            must: Whether a failure is raised; else it is logged.

        Returns:
            Whether the file is written, or handed to the thread that writes.

        Raises:
            NonFiniteError: A weight is not finite.
            SaveError: The file cannot be written.
        """
        runner.control.settle_all()
        if not processes.is_main():
            return True
        state = self._collect(runner, iteration, epoch, optimizer, schedule, extra)
        frozen = self.saver.freeze(state)
        if must:
            self.saver.run(partial(self.keeper.add, frozen, path))
        else:
            self.saver.run(partial(self._add, frozen, path))
        self.report()
        return self.trouble is None

    def _add(self, frozen: Mapping[str, Any], path: Path) -> None:
        """Write a checkpoint and note how that went."""
        try:
            self.keeper.add(frozen, path)
            self.trouble = None
        except OSError as error:
            first = self.trouble is None
            self.trouble = Trouble.after(error, self.trouble)
            if first:
                self.keeper.places.say(
                    f"{error}; {self._what_there_is()}; training goes on for "
                    f"{self.save_limit_s / 60:g} minutes at most while saving fails"
                )

    def _collect(
        self,
        runner: RunnerProtocol,
        iteration: int,
        epoch: int,
        optimizer: bool | None = None,
        schedule: bool | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        return collect(
            runner,
            iteration=iteration,
            epoch=epoch,
            optimizer=self.save_optimizer if optimizer is None else optimizer,
            schedule=self.save_param_scheduler if schedule is None else schedule,
            extra=extra,
        )

    def _wait_for_writer(self, written: bool, must: bool) -> bool:
        """Let the other processes wait where the writer does, so that no time limit is met."""
        if not self.saver.background or must:
            return not processes.any_of(not written)
        return written

    def after_val_epoch(
        self, runner: RunnerProtocol, metrics: dict[str, float] | None = None
    ) -> None:
        """Keep the best, and note the scores beside the checkpoint that was validated."""
        if not metrics or not runner.control.training:
            return
        runner.control.watch("saving")
        scores = {k: float(v) for k, v in metrics.items() if isinstance(v, (int, float))}
        unscored = unscored_by(
            getattr(getattr(runner.val_loop, "evaluator", None), "metrics", ()) or ()
        )
        better = self._note_best(scores, self._progress(runner)) if self.best.keys else []
        for key, _, _ in better if unscored else ():
            self.best.kept[key]["unscored"] = unscored
        if processes.is_main():
            whole = self.saved[1] if self.saved and self.saved[0] == runner.iter else None
            frozen = None
            if better and whole is None:
                frozen = self.saver.freeze(self._collect(runner, runner.iter, runner.epoch))
            self.saver.run(partial(self._add_best, whole, frozen, better, scores))
            self.report()
        self._wait_for_writer(True, False)
        for _, name, _ in better:
            said = "Kept as best" if unscored else "Best so far"
            runner.logger.info(f"{said}: {name}{beside_mean(unscored)}")

    def _add_best(
        self,
        whole: Path | None,
        frozen: Mapping[str, Any] | None,
        better: Sequence[tuple[str, str, str | None]],
        scores: dict[str, float],
    ) -> None:
        try:
            self.keeper.add_best(whole, frozen, better, scores)
        except OSError as error:
            text = f"{error}; the new best checkpoint is missing"
            self.keeper.places.tell(text, about="best")

    def _note_best(
        self, scores: dict[str, float], progress: int
    ) -> list[tuple[str, str, str | None]]:
        noted = []
        for key in self.best.improved(scores):
            name = best_name(key, self.keeper.template.format(progress))
            noted.append((key, name, self.best.keep(key, scores[key], name, progress)))
        return noted

    def report(self, *, wait: bool = False) -> None:
        """Raise what failed in the background for another reason than the file system.

        Args:
            wait: Whether to wait until everything is written.
        """
        for error in self.saver.failures(wait=wait):
            raise error

    def finish(self, runner: RunnerProtocol, *, must: bool) -> None:
        """Wait until everything is written.

        Args:
            runner: The runner.
            must: Whether to save the present state where the latest save has failed.

        Raises:
            SaveError: It must, and could be written nowhere.
        """
        runner.control.watch("saving")
        self.report(wait=True)
        if must and processes.any_of(self.trouble is not None):
            name = self._unscheduled(runner.iter)
            self.save(runner, name, runner.iter, runner.epoch, must=True)
        self._wait_for_writer(True, True)

    def after_train(self, runner: RunnerProtocol) -> None:
        """Finish writing; publish the last and the best checkpoints where that was asked for."""
        self.finish(runner, must=True)
        if not processes.is_main():
            return
        written = self.keeper.written
        if written is not None and written.parent in self.keeper.places.used:
            runner.logger.warning(
                f"{self.keeper.folder}: could not be written in the end; the newest checkpoint is "
                f"{written}"
            )
        if self.published_keys:
            names = {entry["file"] for entry in self.best.kept.values()}
            names |= {self.saved[1].name} if self.saved and self.save_last else set()
            for path in map(self.keeper.find, sorted(names)):
                published = publish(path, self.published_keys)
                runner.logger.info(f"{path.name} is published as {published.name}")


def places_of(hook: CheckpointHook | Mapping[str, Any] | None, work_dir: Path) -> Places:
    """Return where checkpoints go to: the folder, and what stands in for it, the best one first.

    Args:
        hook: The hook that writes them, or its config.
        work_dir: The run folder.
    """
    given = hook if isinstance(hook, Mapping) else vars(hook) if hook is not None else {}
    out_dir = given.get("out_dir")
    folder = work_dir if out_dir is None else Path(out_dir) / work_dir.name
    return Places(folder, fallback_folders(folder, given.get("fallback_dir")))
