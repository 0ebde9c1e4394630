"""When to save, what to keep, and which checkpoint is the best."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from mmengine.hooks import Hook

from nlseg.registry import HOOKS
from nlseg.run import distributed
from nlseg.run.best import BestScores
from nlseg.run.keeping import STOPGAP, Keeper
from nlseg.run.publish import publish
from nlseg.run.saving import Saver
from nlseg.run.state import collect

Rule = Literal["greater", "less"]


@HOOKS.register_module()
class CheckpointHook(Hook):
    """Save checkpoints that survive a crash, keep the newest and the best.

    A periodic save that fails (disk full) is an error in the log and training goes on; the save
    at the end, or on a request to stop, must succeed. While gradients are accumulated, a save is
    put off to the next optimizer step, where the state is complete.

    Args:
        interval: Epochs or iterations between checkpoints; -1 saves at the end only.
        by_epoch: Whether to count epochs.
        save_optimizer: Whether to save the optimizer, without which no run can go on.
        save_param_scheduler: Whether to save the schedulers.
        out_dir: Other folder; checkpoints go to a folder of the run folder's name in it.
        max_keep_ckpts: How many to keep; -1 keeps all. The best ones do not count.
        save_last: Whether to save at the end whatever the interval.
        save_best: Score or scores whose best checkpoint is kept; 'auto' takes the first.
        rule: 'greater' or 'less' is better, for each score or for all; None guesses by name.
        filename_tmpl: Name with {} for the number; None for epoch_{}.pth or iter_{}.pth.
        published_keys: Entries that a copy for others, written at the end, holds.
        save_begin: First epoch or iteration to save at.
        background: Write files while training goes on.
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
        filename_tmpl: str | None = None,
        published_keys: str | Sequence[str] | None = None,
        save_begin: int = 0,
        background: bool = False,
    ) -> None:
        self.interval, self.by_epoch, self.save_begin = interval, by_epoch, save_begin
        self.save_optimizer, self.save_param_scheduler = save_optimizer, save_param_scheduler
        self.out_dir, self.save_last = out_dir, save_last
        template = filename_tmpl or ("epoch_{}.pth" if by_epoch else "iter_{}.pth")
        self.keeper = Keeper(Path(), template, max_keep_ckpts)
        keys = [save_best] if isinstance(save_best, str) else list(save_best or [])
        rules = [rule] if rule is None or isinstance(rule, str) else list(rule)
        self.best = BestScores(keys, rules)
        published = [published_keys] if isinstance(published_keys, str) else published_keys
        self.published_keys = list(published or [])
        self.saver = Saver(background)
        self.saved: tuple[int, Path] | None = None
        self.put_off: int | None = None
        self.prepared = False

    def place(self, runner: Any) -> Path:
        """Return the folder that checkpoints go to."""
        folder = Path(runner.work_dir)
        return folder if self.out_dir is None else Path(self.out_dir) / folder.name

    def before_train(self, runner: Any) -> None:
        """Find the folder, and take over the best scores of a run that is resumed."""
        self.keeper.folder = self.place(runner)
        self.keeper.folder.mkdir(parents=True, exist_ok=True)
        self.best.kept = dict(runner.resumed.best)
        if runner.resumed.path is not None:
            self.saved = (runner.iter, runner.resumed.path)
            if distributed.is_main():
                self.keeper.tidy_up(runner.resumed.path, runner.resumed.progress)
        if runner.resumed.scores and self.best.keys:
            self._note_best(runner.resumed.scores, runner.resumed.progress)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Save after the iteration where that is due."""
        done = runner.iter + 1
        last = self.save_last and done == runner.max_iters
        if self.saver.background and not self.prepared and distributed.is_main():
            self.prepared = True
            self.saver.prepare(self._collect(runner, done, runner.epoch))
        if self.put_off is not None:
            number = self.put_off if self.by_epoch else done
            self._save_or_put_off(runner, number, done, runner.epoch)
        elif not self.by_epoch and (self._on_interval(done) or last):
            self._save_or_put_off(runner, done, done, runner.epoch)

    def after_train_epoch(self, runner: Any) -> None:
        """Save after the epoch where that is due."""
        done = runner.epoch + 1
        last = self.save_last and done == runner.max_epochs
        if self.by_epoch and (self._on_interval(done) or last):
            self._save_or_put_off(runner, done, runner.iter, done)

    def _on_interval(self, done: int) -> bool:
        since = done - self.save_begin
        return self.interval > 0 and since >= 0 and since % self.interval == 0

    def _save_or_put_off(self, runner: Any, number: int, iteration: int, epoch: int) -> None:
        if runner.control.is_accumulating():
            self.put_off = number
            return
        self.put_off = None
        last = iteration == runner.max_iters
        self.save(runner, self.keeper.template.format(number), number, iteration, epoch, must=last)

    def save_now(self, runner: Any) -> Path | None:
        """Save the state between two iterations, unless that has just been done.

        Returns:
            The checkpoint of this very state.
        """
        iteration = runner.iter
        if self.saved is None or self.saved[0] != iteration:
            name = STOPGAP if self.by_epoch else self.keeper.template
            self.save(runner, name.format(iteration), None, iteration, runner.epoch, must=True)
        self.finish(runner, must=True)
        return self.saved[1] if self.saved else None

    def save(
        self, runner: Any, name: str, number: int | None, iteration: int, epoch: int, *, must: bool
    ) -> None:
        """Write a checkpoint, point at it, drop old ones.

        Args:
            runner: The runner.
            name: File name.
            number: What the template was filled with; None keeps the old ones.
            iteration: Iterations trained.
            epoch: Epochs trained.
            must: Whether a failure ends training.
        """
        runner.control.watch("saving")
        runner.control.settle_all()
        path = self.keeper.folder / name
        runner.logger.info(f"Saving checkpoint {name} at iteration {iteration}")
        written = True
        if distributed.is_main():
            frozen = self.saver.freeze(self._collect(runner, iteration, epoch))
            written = self._submit(runner, partial(self.keeper.add, frozen, path, number), must)
        if self._wait_for_writer(written, must):
            self.saved = (iteration, path)

    def _collect(self, runner: Any, iteration: int, epoch: int) -> dict[str, Any]:
        return collect(
            runner,
            iteration=iteration,
            epoch=epoch,
            optimizer=self.save_optimizer,
            schedule=self.save_param_scheduler,
            extra={"best": self.best.kept},
        )

    def _submit(self, runner: Any, job: Any, must: bool) -> bool:
        try:
            self.saver.run(job)
        except OSError as error:
            if must:
                raise
            runner.logger.error(f"{error}; training goes on")
            return False
        self.report(runner, must=False)
        return True

    def _wait_for_writer(self, written: bool, must: bool) -> bool:
        """Let the other processes wait where the writer does, so that no time limit is met."""
        if not self.saver.background or must:
            return not distributed.any_of(not written)
        return written

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Keep the best, and note the scores beside the checkpoint that was validated."""
        if not metrics or runner.train_loop is None:
            return
        runner.control.watch("saving")
        scores = {k: float(v) for k, v in metrics.items() if isinstance(v, (int, float))}
        progress = runner.epoch if self.by_epoch else runner.iter
        better = self._note_best(scores, progress) if self.best.keys else []
        if distributed.is_main():
            whole = self.saved[1] if self.saved and self.saved[0] == runner.iter else None
            frozen = None
            if better and whole is None:
                frozen = self.saver.freeze(self._collect(runner, runner.iter, runner.epoch))
            job = partial(self.keeper.add_best, whole, frozen, better, scores)
            self._submit(runner, job, must=False)
        self._wait_for_writer(True, False)
        for name, _ in better:
            runner.logger.info(f"Best so far: {name}")

    def _note_best(self, scores: dict[str, float], progress: int) -> list[tuple[str, str | None]]:
        noted = []
        for key in self.best.improved(scores):
            name = f"best_{key}_{self.keeper.template.format(progress)}".replace("/", "_")
            noted.append((name, self.best.keep(key, scores[key], name, progress)))
        return noted

    def report(self, runner: Any, *, must: bool) -> None:
        """Tell of saves in the background that failed."""
        for error in self.saver.failures(wait=must):
            if must:
                raise error
            runner.logger.error(f"{error}; training goes on")

    def finish(self, runner: Any, *, must: bool) -> None:
        """Wait until everything is written."""
        runner.control.watch("saving")
        self.report(runner, must=must)
        self._wait_for_writer(True, True)

    def after_train(self, runner: Any) -> None:
        """Finish writing; publish the last and the best checkpoints where that was asked for."""
        self.finish(runner, must=True)
        if self.published_keys and distributed.is_main():
            names = {entry["file"] for entry in self.best.kept.values()}
            last = [self.saved[1]] if self.saved and self.save_last else []
            for path in [*last, *(self.keeper.folder / name for name in sorted(names))]:
                published = publish(path, self.published_keys)
                runner.logger.info(f"{path.name} is published as {published.name}")
