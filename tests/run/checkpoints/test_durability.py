"""Power fails at any moment of a save: the newest checkpoint that was promised must be there.

A file system may lose whatever was not synced, in any order: content of a file, a new name in a
folder; and a deletion may reach the disk before an older rename does. Every call that changes the
run folder is noted, and after each the worst folders that could be found after a crash are made
and searched, as a resume would.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nlseg.run import checkpoint
from nlseg.run.checkpoint import POINTER
from tests.run.runs import train
from tests.run.toy import toy_config

HOOK = "default_hooks.checkpoint"
EVERY_SECOND = {f"{HOOK}.interval": 2, f"{HOOK}.max_keep_ckpts": 1}


class Disk:
    """What of a folder would be left after a power failure.

    Args:
        folder: The run folder.
        crashed: Where folders after a crash are made.
        fail_at: Number of the call that is refused with EIO; None refuses none.
    """

    def __init__(self, folder: Path, crashed: Path, fail_at: int | None = None) -> None:
        self.folder, self.crashed, self.fail_at = folder, crashed, fail_at
        self.now: dict[str, int] = {}  # name -> inode
        self.synced: dict[str, int] = {}
        self.deleted: set[str] = set()  # since the folder was synced
        self.content: dict[int, bytes] = {}  # of an inode, as it was synced
        self.held: list[int] = []  # so that no inode is used again
        self.calls: list[str] = []
        self.promised = 0
        self.kept_at: list[int] = []  # how many calls there had been when a promise was made
        self.crashes = 0

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Listen to the calls that change files and folders."""
        fsync, replace, link, unlink = os.fsync, os.replace, os.link, os.unlink

        def note_fsync(descriptor: int) -> None:
            if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                fsync(descriptor)
                self.sync_folder(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
                return
            self.begin("fsync")
            fsync(descriptor)
            self.held.append(os.dup(descriptor))
            inode = os.fstat(descriptor).st_ino
            self.content[inode] = Path(f"/proc/self/fd/{descriptor}").read_bytes()
            self.check()

        def note_replace(source: Path, target: Path) -> None:
            self.begin("replace")
            inode = os.stat(source).st_ino
            replace(source, target)
            self.rename(Path(source), Path(target), inode)

        def note_link(source: Path, target: Path) -> None:
            self.begin("link")
            link(source, target)
            self.rename(None, Path(target), os.stat(target).st_ino)

        def note_unlink(path: Path, missing_ok: bool = False) -> None:
            if not os.path.lexists(path) and missing_ok:
                return
            self.begin("unlink")
            unlink(path)
            self.rename(Path(path), None, 0)

        monkeypatch.setattr(os, "fsync", note_fsync)
        monkeypatch.setattr(os, "replace", note_replace)
        monkeypatch.setattr(os, "link", note_link)
        monkeypatch.setattr(os, "unlink", note_unlink)
        monkeypatch.setattr(Path, "unlink", note_unlink)

    def begin(self, name: str) -> None:
        """Count a call, and refuse it if it is the one."""
        self.calls.append(name)
        if len(self.calls) - 1 == self.fail_at:
            raise OSError(5, "Input/output error")

    def sync_folder(self, folder: Path) -> None:
        """Note that names are now on the disk."""
        if folder != self.folder:
            return
        self.synced, self.deleted = dict(self.now), set()
        if POINTER in self.synced:
            name = self.content[self.synced[POINTER]].decode()
            iteration = int(Path(name).stem.split("_")[1])
            if iteration > self.promised:
                self.promised = iteration
                self.kept_at.append(len(self.calls))
        self.check()

    def rename(self, source: Path | None, target: Path | None, inode: int) -> None:
        """Note another name of an inode; none of both is a new one, or a deletion."""
        if source is not None and source.parent == self.folder:
            self.now.pop(source.name, None)
            self.deleted.add(source.name)
        if target is not None and target.parent == self.folder:
            self.now[target.name] = inode
        self.check()

    def worlds(self) -> Iterator[dict[str, int]]:
        """Walk over what names may be found after a crash."""
        yield self.now
        yield self.synced
        yield {name: i for name, i in self.synced.items() if name not in self.deleted}

    def check(self) -> None:
        """Crash now: what was promised, or something newer, must be found."""
        if not self.promised:
            return
        for names in self.worlds():
            number = len(list(self.crashed.iterdir()))
            folder = self.crashed / str(number)
            folder.mkdir()
            for name, inode in names.items():
                (folder / name).write_bytes(self.content.get(inode, b""))
            found = checkpoint.newest(folder)[0]
            after = f"after {len(self.calls)} calls, the last one {self.calls[-1]}"
            assert found is not None, f"{after}: none of {sorted(names)} is whole"
            iteration = torch.load(found, weights_only=True)["meta"]["iter"]
            assert iteration >= self.promised, f"{after}: {iteration}, not {self.promised}"
            self.crashes += 1

    def close(self) -> None:
        """Let go of the inodes."""
        for descriptor in self.held:
            os.close(descriptor)


def watched(tmp_path: Path, fail_at: int | None = None, **changes: Any) -> Disk:
    """Train while every call is followed by a crash in the mind."""
    folder, crashed = tmp_path / "run", tmp_path / "crashed"
    folder.mkdir(parents=True)
    crashed.mkdir()
    disk = Disk(folder, crashed, fail_at)
    with pytest.MonkeyPatch.context() as monkeypatch:
        disk.patch(monkeypatch)
        try:
            train(toy_config(folder, iters=8, **{**EVERY_SECOND, **changes}))
        finally:
            disk.close()
    return disk


@pytest.mark.parametrize("background", [False, True], ids=["inline", "background"])
@pytest.mark.parametrize("best", [None, "mIoU"])
def test_power_may_fail_at_any_moment(tmp_path: Path, background: bool, best: str | None) -> None:
    torch.set_num_threads(1)
    disk = watched(tmp_path, **{f"{HOOK}.background": background, f"{HOOK}.save_best": best})
    assert disk.promised == 8
    assert disk.crashes > 60
    assert {"fsync", "replace", "unlink"} <= set(disk.calls)
    assert ("link" in disk.calls) == (best is not None)


@pytest.mark.slow
def test_any_call_may_be_refused(tmp_path: Path) -> None:
    """Each call of two saves fails once; the checkpoint before stays, and training goes on."""
    torch.set_num_threads(1)
    whole = watched(tmp_path / "whole")
    first, _, third, _ = whole.kept_at
    for number in range(first, third):
        disk = watched(tmp_path / str(number), number)
        assert disk.promised == 8, whole.calls[number]
        assert not list(disk.folder.glob(".*tmp")), whole.calls[number]
        found = checkpoint.newest(disk.folder)[0]
        assert found == disk.folder / "iter_8.pth", whole.calls[number]
