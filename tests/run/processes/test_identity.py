import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from nlseg.errors import UserError
from nlseg.run import identity
from nlseg.run.folder import FolderLock
from tests.run.prepared import run_ranks
from tests.run.rank_script import EMA
from tests.run.runs import assert_same, final, go_on, interrupt, train
from tests.run.toy import toy_config


class Images:
    """A data set of files that are only named."""

    def __init__(self, root: Path, sizes: dict[str, int]) -> None:
        root.mkdir()
        for name, size in sizes.items():
            (root / name).write_bytes(bytes(size))
        self.data_root = str(root)
        self.data_list = [{"img_path": str(root / name)} for name in sizes]

    def __len__(self) -> int:
        return len(self.data_list)


def test_data_are_known_by_names_below_the_root_and_sizes(tmp_path: Path) -> None:
    one = identity.of_data(Images(tmp_path / "a", {"x": 1, "y": 2}), "train")
    assert one == identity.of_data(Images(tmp_path / "b", {"x": 1, "y": 2}), "train")
    for number, other in enumerate(({"x": 1, "y": 3}, {"x": 1, "z": 2}, {"x": 1})):
        assert one != identity.of_data(Images(tmp_path / str(number), other), "train")
    assert one["train data"].startswith("Images, 2 images, names and sizes ")


def test_facts_of_a_config_hold_no_address_and_no_path_of_one_machine() -> None:
    facts = identity.of_config(
        {"data_root": "/here", "a": [{"crop_size": (4, 4)}, {"f": lambda: 1}], "hook": object()}
    )
    assert facts.pop("code").startswith("nlseg ")
    assert facts == {
        "a.0.crop_size": "['4', '4']",
        "a.1.f": f"{__name__}.test_facts_of_a_config_hold_no_address_and_no_path_of_one_machine."
        "<locals>.<lambda>",
        "hook": "builtins.object",
    }


def test_checksum_of_weights_sees_one_bit_and_an_exchange() -> None:
    one = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([2.0, 1.0])}
    exchanged = {"a": one["b"], "b": one["a"] * 2}
    flipped = {"a": torch.nextafter(one["a"], one["a"] + 1), "b": one["b"]}
    checksums = [identity.of_weights(state)["weights"] for state in (one, exchanged, flipped)]
    assert len(set(checksums)) == 3
    assert checksums[0] == identity.of_weights({k: v.clone() for k, v in one.items()})["weights"]


def warnings_of(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    warnings: list[str] = []
    monkeypatch.setattr(
        logging.Logger, "warning", lambda self, text, *_, **__: warnings.append(str(text))
    )
    return warnings


def test_each_change_is_listed_at_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    interrupt(toy_config(tmp_path), 5)
    warnings = warnings_of(monkeypatch)
    go_on(
        toy_config(
            tmp_path,
            **{"train_dataloader.dataset.poison": (999,), "val_dataloader.dataset.size": 9},
        )
    )
    (told,) = [text for text in warnings if "what else has changed" in text]
    rows = [" ".join(line.split()) for line in told.splitlines()[2:]]
    assert "train_dataloader.dataset.poison - ['999']" in rows
    assert "val_dataloader.dataset.size 13 9" in rows
    assert "val data ToyData, 13 images ToyData, 9 images" in rows
    assert any(row.startswith("custom_hooks.0.type 'SignalAt' -") for row in rows)  # of interrupt
    assert not any(row.split()[0] in ("work_dir", "resume", "experiment_name") for row in rows)


def test_unchanged_run_is_told_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    stopped = toy_config(tmp_path, max_time="0")
    with pytest.raises(SystemExit):
        train(stopped)
    warnings = warnings_of(monkeypatch)
    go_on(toy_config(tmp_path))
    assert not [text for text in warnings if "changed" in text]


def test_run_without_its_average_goes_on_from_the_weights_that_were_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    train(toy_config(tmp_path / "never"))
    interrupt(toy_config(tmp_path / "given up", **EMA), 5)
    warnings = warnings_of(monkeypatch)
    go_on(toy_config(tmp_path / "given up"))
    assert [text for text in warnings if "its weights are an average (EMAHook)" in text]
    assert_same(final(tmp_path / "never"), final(tmp_path / "given up"))


def test_folder_of_the_checkpoints_is_locked_too(tmp_path: Path) -> None:
    out: dict[str, Any] = {"default_hooks.checkpoint.out_dir": str(tmp_path / "out")}
    (tmp_path / "out/run").mkdir(parents=True)
    ready, held = os.pipe()
    until, done = os.pipe()
    child = os.fork()
    if child == 0:
        lock = FolderLock(tmp_path / "out/run")
        lock.acquire()
        os.write(held, b"x")
        os.close(done)
        os.read(until, 1)
        os._exit(0)
    os.read(ready, 1)
    with pytest.raises(UserError, match=r"out/run: process \d+ on .* trains in this folder"):
        train(toy_config(tmp_path / "a/run", **out))
    os.close(done)
    os.waitpid(child, 0)
    assert train(toy_config(tmp_path / "a/run", **out)).iter == 12


@pytest.mark.slow
def test_process_with_another_config_or_other_data_stops_all(tmp_path: Path) -> None:
    outputs = run_ranks(2, "-m", "tests.run.rank_script", "disagreeing", str(tmp_path))
    for output in outputs:
        assert "process 1 is not part of the same run as process 0" in output
        assert "model.dropout - 0.5" in " ".join(output.split())
        assert "train data ToyData, 23 images ToyData, 22 images" in " ".join(output.split())
        assert any(line.split()[:1] == ["weights"] for line in output.splitlines())
