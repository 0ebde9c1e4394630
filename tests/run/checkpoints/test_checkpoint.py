import json
import os
import signal
import subprocess
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from nlseg.files import link_or_copy, remove_leftovers, replace_file
from nlseg.run import checkpoint
from tests.cases import each_case
from tests.run import prepared


def make(folder: Path, iteration: int, *, resumable: bool = True) -> Path:
    content = {
        "meta": {"iter": iteration},
        "state_dict": {"w": torch.full((50,), float(iteration))},
    }
    path = folder / f"iter_{iteration}.pth"
    checkpoint.save({**content, "optimizer": {}} if resumable else content, path)
    return path


def run_python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return prepared.run("-c", textwrap.dedent(code), *args)


def test_record_holds_size_hash_and_iteration(tmp_path: Path) -> None:
    path = make(tmp_path, 8)
    record = json.loads((tmp_path / "iter_8.pth.json").read_text())
    assert record["size"] == path.stat().st_size
    assert record["sha256"] == checkpoint.sha256_of(path)
    assert record["iter"] == 8
    assert torch.load(path, weights_only=True)["state_dict"]["w"][0] == 8


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fail(file) -> None:
        file.write(b"new")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        replace_file(path, fail)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_kill_amid_a_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(b"old")
    result = run_python(
        """
        import os, signal, sys
        from pathlib import Path
        from nlseg.files import replace_file
        def die(file):
            file.write(b"half")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        replace_file(Path(sys.argv[1]), die)
        """,
        str(path),
    )
    assert result.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert len(os.listdir(tmp_path)) == 2
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["a.pth"]


def test_full_disk_keeps_the_last_checkpoint_and_says_how_much_is_needed(tmp_path: Path) -> None:
    before = make(tmp_path, 1).read_bytes()
    result = run_python(
        """
        import resource, sys
        from pathlib import Path
        import torch
        from nlseg.run import checkpoint
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            state = {"state_dict": {"w": torch.zeros(1 << 20)}}
            checkpoint.save(state, Path(sys.argv[1]) / "iter_2.pth")
        except checkpoint.SaveError as error:
            print(error)
        """,
        str(tmp_path),
    )
    assert "iter_2.pth: cannot be written: File too large; 4.0 MiB are needed" in result.stdout
    assert sorted(os.listdir(tmp_path)) == ["iter_1.pth", "iter_1.pth.json"]
    assert (tmp_path / "iter_1.pth").read_bytes() == before


def test_pointer_holds_a_name_and_survives_a_move(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    checkpoint.point_to(make(folder, 3))
    assert (folder / "last_checkpoint").read_text() == "iter_3.pth"
    folder.rename(tmp_path / "b")
    assert checkpoint.newest(tmp_path / "b") == (tmp_path / "b" / "iter_3.pth", [])


def test_absolute_pointer_of_mmengine_is_read_by_its_name(tmp_path: Path) -> None:
    path = make(tmp_path, 3)
    (tmp_path / "last_checkpoint").write_text("/somewhere/else/iter_3.pth")
    assert checkpoint.newest(tmp_path)[0] == path


@each_case("harm", ["empty", "short", "flip", "gone"])
def test_damaged_newest_is_passed_over_and_named(tmp_path: Path, harm: str) -> None:
    older, newer = make(tmp_path, 1), make(tmp_path, 2)
    checkpoint.point_to(newer)
    data = bytearray(newer.read_bytes())
    if harm == "gone":
        newer.unlink()
    else:
        data[len(data) // 2] ^= 1
        newer.write_bytes({"empty": b"", "short": data[:-9], "flip": data}[harm])
    found, skipped = checkpoint.newest(tmp_path)
    assert found == older
    assert [path for path, _ in skipped] == [newer]


@each_case("harm", ["gone", "empty", "cut off", "one digit", "of another type"])
def test_damaged_record_loses_nothing(tmp_path: Path, harm: str) -> None:
    make(tmp_path, 1)
    newer = make(tmp_path, 2)
    checkpoint.point_to(newer)
    record = checkpoint.record_path(newer)
    text = record.read_text()
    digest = json.loads(text)["sha256"]
    other = ("0" if digest[0] != "0" else "1") + digest[1:]
    record.write_text(
        {
            "gone": "", "empty": "", "cut off": text[:40], "one digit": text.replace(digest, other),
            "of another type": "[1]",
        }[harm]
    )  # fmt: skip
    if harm == "gone":
        record.unlink()
    assert checkpoint.newest(tmp_path) == (newer, [])
    data = bytearray(newer.read_bytes())
    data[data.index(torch.full((50,), 2.0).numpy().tobytes())] ^= 1
    newer.write_bytes(data)  # the file itself is still verified
    found, skipped = checkpoint.newest(tmp_path)
    assert found == tmp_path / "iter_1.pth"
    assert [path for path, _ in skipped] == [newer]


def test_first_checkpoint_without_its_record_is_used_if_it_reads_whole(tmp_path: Path) -> None:
    path = make(tmp_path, 3)  # killed between the file's rename and its JSON
    checkpoint.record_path(path).unlink()
    assert checkpoint.newest(tmp_path) == (path, [])
    data = bytearray(path.read_bytes())
    data[data.index(torch.full((50,), 3.0).numpy().tobytes())] ^= 1
    path.write_bytes(data)
    found, ((skipped, _),) = checkpoint.newest(tmp_path)
    assert (found, skipped) == (None, path)


def test_file_that_differs_from_its_record_is_never_used(tmp_path: Path) -> None:
    path = make(tmp_path, 3)
    with open(path, "ab") as file:
        file.write(b"more")
    assert checkpoint.newest(tmp_path)[0] is None


def test_order_is_pointer_then_older_then_newer(tmp_path: Path) -> None:
    files = {number: make(tmp_path, number) for number in (1, 2, 3, 10)}  # 10: an abandoned branch
    checkpoint.point_to(files[2])
    found = []
    for _ in files:
        path = checkpoint.newest(tmp_path)[0]
        assert path is not None
        found.append(path.name)
        path.write_bytes(b"")
    assert found == ["iter_2.pth", "iter_1.pth", "iter_10.pth", "iter_3.pth"]
    assert checkpoint.newest(tmp_path)[0] is None


def test_weights_without_optimizer_are_not_resumed(tmp_path: Path) -> None:
    older = make(tmp_path, 1)
    make(tmp_path, 2, resumable=False)
    assert checkpoint.newest(tmp_path)[0] == older


def test_prune_keeps_the_newest_up_to_now(tmp_path: Path) -> None:
    for number in (1, 2, 3, 9):
        make(tmp_path, number)
    make(tmp_path, 2).rename(tmp_path / "best_mIoU_iter_2.pth")
    make(tmp_path, 2)
    checkpoint.prune(tmp_path, "iter_{}.pth", keep=2, current=3)
    names = {path.name for path in tmp_path.glob("*.pth")}
    assert names == {"iter_2.pth", "iter_3.pth", "iter_9.pth", "best_mIoU_iter_2.pth"}
    checkpoint.prune(tmp_path, "iter_{}.pth", keep=0, current=9)
    assert {path.name for path in tmp_path.glob("*.pth")} == {"best_mIoU_iter_2.pth"}


def test_link_shares_the_file_and_replaces(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"new")
    target.write_bytes(b"old")
    for _ in range(2):
        link_or_copy(source, target)
        assert target.samefile(source)
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_copy_where_links_do_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_bytes(b"new")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"new"


def test_plain_values_load_without_an_allow_list(tmp_path: Path) -> None:
    class Text(str):
        pass

    values = {
        "number": np.float32(0.5), "array": np.arange(3), "text": Text("t"), "object": object(),
        "nested": [(1, {"a": {3, 2}})], "parameter": torch.nn.Parameter(torch.ones(2)),
        "view": torch.zeros(1000)[:2],
    }  # fmt: skip
    torch.save(checkpoint.plain(values), tmp_path / "f.pth")
    read = torch.load(tmp_path / "f.pth", weights_only=True)
    assert read["number"] == 0.5
    assert read["array"].tolist() == [0, 1, 2]
    assert type(read["text"]) is str
    assert read["object"].startswith("<object")
    assert read["nested"] == [(1, {"a": [2, 3]})]
    assert not read["parameter"].requires_grad
    assert read["view"].untyped_storage().nbytes() == 8
