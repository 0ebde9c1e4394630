"""Which checkpoints a folder keeps: the newest, the best, and copies for others."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nlseg.files import link_or_copy, sync_folder
from nlseg.run import checkpoint
from nlseg.run.checkpoint import SaveError
from nlseg.run.finite import NonFiniteError
from nlseg.run.places import Places
from nlseg.weights.files import read_checkpoint

STOPGAP = "iter_{}.pth"
"""Name of a checkpoint that was asked for amid an epoch."""


class Keeper:
    """Adds checkpoints to a folder; an older one goes when the one that replaces it is durable.

    Args:
        folder: Where checkpoints lie.
        template: Name of periodic ones, with {} for the number.
        most: How many periodic ones to keep; -1 keeps all.
    """

    def __init__(self, folder: Path, template: str, most: int) -> None:
        self.places = Places(folder)
        self.template, self.most = template, most
        self.written: Path | None = None

    @property
    def folder(self) -> Path:
        """Where checkpoints lie."""
        return self.places.folder

    def add(self, frozen: Mapping[str, Any], path: Path) -> None:
        """Write a checkpoint, point at it, and then drop the periodic ones that are too many.

        Args:
            frozen: Plain values that do not change any more.
            path: File. Where it belongs to the folder, which cannot be written, it goes to a
                fallback under the same name.

        Raises:
            NonFiniteError: A weight is not finite.
            SaveError: The file cannot be written.
        """
        refuse_non_finite(frozen)

        def write(folder: Path) -> None:
            checkpoint.save(frozen, folder / path.name)
            checkpoint.point_to(folder / path.name)

        if path.parent != self.folder:
            write(path.parent)
            return
        place = self.places.put(write, checkpoint.bytes_in(frozen))
        self.written = place / path.name
        try:
            self._drop_old(self.written)
        except OSError as error:
            self.places.tell(f"{place}: an old checkpoint cannot be deleted: {error}", place)

    def find(self, name: str) -> Path:
        """Return where a checkpoint lies: in the folder, or in a fallback."""
        places = (self.folder, *self.places.used)
        return next((p / name for p in places if (p / name).exists()), self.folder / name)

    def _drop_old(self, path: Path) -> None:
        number = checkpoint.number_of(path, self.template)
        if self.most > 0 and number is not None:
            checkpoint.prune(path.parent, self.template, keep=self.most, current=number)
            if self.template != STOPGAP:
                checkpoint.prune(path.parent, STOPGAP, keep=0, current=1 << 62)
        if path.parent == self.folder:
            for fallback in self.places.used:
                self._bring_home(fallback)

    def _bring_home(self, fallback: Path) -> None:
        """Delete a fallback, but keep its best checkpoints, and older ones that are to be kept."""
        there = set(checkpoint.numbered(self.folder, self.template))
        older = checkpoint.numbered(fallback, self.template)
        numbers = sorted(set(older) - there)
        wanted = self.most - len(there) if self.most > 0 else len(numbers)
        for path in [
            *(best for best in fallback.glob("best_*.pth") if not self._is_superseded(best)),
            *(older[number] for number in numbers[max(len(numbers) - wanted, 0) :]),
        ]:
            link_or_copy(path, self.folder / path.name)
            if record := checkpoint.read_record(path):
                checkpoint.write_record(self.folder / path.name, record)
        self.places.clear(fallback)

    def _is_superseded(self, best: Path) -> bool:
        """Return whether the folder holds a newer best checkpoint by the same score."""
        for start in range(len(best.name)):
            number = checkpoint.number_of(Path(best.name[start:]), self.template)
            if number is not None:
                newer = checkpoint.numbered(self.folder, best.name[:start] + self.template)
                return max(newer, default=number) > number
        return False

    def add_best(
        self,
        whole: Path | None,
        frozen: Mapping[str, Any] | None,
        better: Sequence[tuple[str, str, str | None]],
        scores: dict[str, float],
    ) -> None:
        """Give a checkpoint that was validated its scores, and its name as the best one.

        Args:
            whole: The checkpoint of this very state; None where there is none.
            frozen: The state, to be written where there is none.
            better: Scores whose best checkpoint is to be made, each with its name and that of the
                one it replaces.
            scores: What validation found.
        """
        whole = self.find(whole.name) if whole else None
        record = checkpoint.read_record(whole) if whole else None

        for key, name, before in better:

            def write(folder: Path, path: str = name) -> None:
                self._write_best(folder / path, whole, record, frozen, scores)

            size = checkpoint.bytes_in(frozen) if frozen else record.size if record else 0
            place = self.places.put(write, size)
            self._drop_best(place / name, key, before)
        if whole is not None and record is not None:
            checkpoint.write_record(whole, replace(record, scores=scores))

    def _write_best(
        self,
        path: Path,
        whole: Path | None,
        record: checkpoint.Record | None,
        frozen: Mapping[str, Any] | None,
        scores: dict[str, float],
    ) -> None:
        if frozen is not None:
            refuse_non_finite(frozen)
            record = checkpoint.save(frozen, path)
        elif whole is not None and record is not None:
            link_or_copy(whole, path)
        else:
            raise SaveError(f"{path}: cannot be made, as {whole} was not written")
        checkpoint.write_record(path, replace(record, file=path.name, scores=scores))

    def _drop_best(self, path: Path, key: str, before: str | None) -> None:
        """Delete the best checkpoints before this one, those too whose successor was not written.

        Args:
            path: The new one.
            key: Its score.
            before: Name of the one that was noted last.
        """
        template = best_name(key, self.template)
        number = checkpoint.number_of(path, template)
        for folder in {path.parent, self.folder}:
            if before:
                checkpoint.remove(folder / before)
            for other, old in checkpoint.numbered(folder, template).items():
                if number is not None and other < number:
                    checkpoint.remove(old)

    def tidy_up(self, path: Path, progress: int) -> None:
        """Drop what a kill between a save and its deletions left behind.

        Args:
            path: The checkpoint that a run was resumed from.
            progress: Its number.
        """
        periodic = path.name == self.template.format(progress)
        if self.most > 0 and periodic and path.parent.resolve() == self.folder.resolve():
            checkpoint.prune(self.folder, self.template, keep=self.most, current=progress)


def best_name(key: str, name: str) -> str:
    """Return the name of the best checkpoint by a score.

    Args:
        key: The score.
        name: That of the periodic checkpoint of the same state, or its template.
    """
    return f"best_{key}_{name}".replace("/", "_")


def refuse_non_finite(frozen: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of which a weight is not finite.

    Raises:
        NonFiniteError: One is not; such a state is never saved.
    """
    floats = [value for value in frozen["state_dict"].values() if value.is_floating_point()]
    if floats and not torch.stack(torch._foreach_norm(floats)).isfinite().all():
        iteration = frozen["meta"]["iter"]
        raise NonFiniteError(f"iteration {iteration}: weights are not finite; not saved")


def publish(path: Path, keys: Sequence[str], target: Path | None = None) -> Path:
    """Write a copy of a checkpoint with some of its entries.

    Args:
        path: The checkpoint.
        keys: Entries to keep, such as 'meta' and 'state_dict'.
        target: Name of the copy, before the hash is put in; the checkpoint's own when not given.

    Returns:
        The copy, whose name ends in the first 8 digits of its SHA-256.
    """
    content = {key: value for key, value in read_checkpoint(path).items() if key in keys}
    plain_name = target or path
    unnamed = plain_name.with_name(f".{plain_name.stem}.publishing.pth")
    record = checkpoint.save(content, unnamed)
    final = plain_name.with_name(f"{plain_name.stem}-{record.sha256[:8]}.pth")
    unnamed.replace(final)
    checkpoint.record_path(unnamed).unlink()
    sync_folder(final.parent)
    return final
