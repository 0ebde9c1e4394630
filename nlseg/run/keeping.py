"""What a save does to a folder, step by step, and which older files it makes needless."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nlseg.files import link_or_copy
from nlseg.run import checkpoint as files
from nlseg.run import checkpoint_folder as folder_of
from nlseg.run.finite import NonFiniteError

STOPGAP = "iter_{}.pth"


@dataclass
class Keeper:
    """Adds checkpoints to a folder; an older one goes when the one that replaces it is durable.

    Args:
        folder: Where checkpoints lie.
        template: Name of periodic ones, with {} for the number.
        most: How many periodic ones to keep; -1 keeps all.
    """

    folder: Path
    template: str
    most: int

    def add(self, frozen: Mapping[str, Any], path: Path, number: int | None) -> None:
        """Write a checkpoint, point at it, and then drop old ones.

        Args:
            frozen: Plain values that do not change any more.
            path: File.
            number: What the template was filled with; None drops nothing.
        """
        write_finite(frozen, path)
        folder_of.point_to(path)
        if self.most > 0 and number is not None:
            folder_of.prune(self.folder, self.template, keep=self.most, current=number)
            if self.template != STOPGAP:
                folder_of.prune(self.folder, STOPGAP, keep=0, current=1 << 62)

    def add_best(
        self,
        whole: Path | None,
        frozen: Mapping[str, Any] | None,
        better: Sequence[tuple[str, str | None]],
        scores: dict[str, float],
    ) -> None:
        """Give a checkpoint that was validated its scores, and its name as the best one.

        Args:
            whole: The checkpoint of this very state; None where there is none.
            frozen: The state, to be written where there is none.
            better: Names of best checkpoints to make, each with that of the one it replaces.
            scores: What validation found.
        """
        record = files.read_record(whole) if whole else None
        for name, before in better:
            path = self.folder / name
            if frozen is not None:
                files.write_record(path, replace(write_finite(frozen, path), scores=scores))
            elif whole is not None and record is not None:
                link_or_copy(whole, path)
                files.write_record(path, replace(record, file=name, scores=scores))
            else:
                raise files.SaveError(f"{path}: cannot be made, as {whole} was not written")
            if before:
                folder_of.remove(self.folder / before)
        if whole is not None and record is not None:
            files.write_record(whole, replace(record, scores=scores))

    def tidy_up(self, path: Path, progress: int) -> None:
        """Drop what a kill between a save and its deletions left behind.

        Args:
            path: The checkpoint that a run goes on from.
            progress: Its number.
        """
        periodic = path.name == self.template.format(progress)
        if self.most > 0 and periodic and path.parent.resolve() == self.folder.resolve():
            folder_of.prune(self.folder, self.template, keep=self.most, current=progress)


def write_finite(frozen: Mapping[str, Any], path: Path) -> files.Record:
    """Write a checkpoint unless a weight is not finite.

    Raises:
        NonFiniteError: One is not; such a state is never saved.
        SaveError: It cannot be written.
    """
    floats = [value for value in frozen["state_dict"].values() if value.is_floating_point()]
    if floats and not torch.stack(torch._foreach_norm(floats)).isfinite().all():
        iteration = frozen["meta"]["iter"]
        raise NonFiniteError(f"iteration {iteration}: weights are not finite; not saved")
    return files.save(frozen, path)
