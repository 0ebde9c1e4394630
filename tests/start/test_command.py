"""``nlseg start``: the plan as a config, the whole way to a tested model, and the second call."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nlseg.commands.start import build_parser, main, request_of
from nlseg.config import load_config
from nlseg.doctor.examination import examine
from nlseg.errors import UserError
from nlseg.plan.dry_run import DryRun
from nlseg.plan.training_step import StepCost
from nlseg.registry import DATASETS, MODELS
from nlseg.start.choose import ON_CPU, Choices
from nlseg.start.facts import measure_data
from nlseg.start.loading import Loading
from nlseg.start.planning import read_folder, too_short
from nlseg.start.writing import MOST_LINES, Schedule, config_text, place_pairs, write_lists
from tests.run import prepared
from tests.start.folders import SIZE, draw, request, two_folders, write

REASONS = dict.fromkeys(
    ("scale", "backbone", "crop", "tta", "normalisation", "weights", "rate", "loss", "rare"),
    "a reason with its measurement, long enough to be wrapped once or twice in a line of a config",
)


def drafted(root: Path, **more: Any) -> Path:
    """Write the config of a folder without measuring this machine."""
    asked = request(root, **more)
    found = read_folder(asked, progress=False)
    data = measure_data(found.parts.train, found.parts.test, found.labels, found.facts)
    choices = Choices(
        ON_CPU[2], crop=SIZE, image_size=SIZE, loss="ce+dice", rare=(1,), tta=True, mean=data.mean,
        std=data.std, reasons=REASONS,
    )  # fmt: skip
    place, _ = place_pairs(root, found.layout.pairs, asked.files)
    lists = write_lists(found.parts, place, asked.files)
    text = config_text(
        root, place, lists, found.labels, data, choices, Schedule(8, 2, 2, "r"),
        Loading(3, not data.deep, "t"), ["h"], "made",
    )  # fmt: skip
    asked.out.write_text(text)
    return asked.out


def palette(root: Path) -> dict[str, Any]:
    from PIL import Image

    for i in range(4):
        image, mask = draw(i, (0, 1, 2))
        write(root / f"images/{i}.jpg", image)
        (root / "masks").mkdir(exist_ok=True)
        picture = Image.fromarray(mask, mode="P")
        picture.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
        picture.save(root / f"masks/{i}.png")
    (root / "classes.txt").write_text("sky\nsea\nsand\n")
    return {}


def painted(root: Path) -> dict[str, Any]:
    colours = np.array([[0, 0, 0], [0, 0, 255], [0, 255, 0]], np.uint8)  # BGR
    for i in range(4):
        image, mask = draw(i, (0, 1, 2))
        write(root / f"x{i}.jpg", image)
        write(root / f"x{i}_mask.png", colours[mask])
    (root / "class_dict.csv").write_text("name,r,g,b\nsky,0,0,0\nsea,255,0,0\nsand,0,255,0\n")
    return {}


def deep(root: Path) -> dict[str, Any]:
    for i in range(4):
        image, mask = draw(i)
        write(root / f"images/{i}.tif", image[..., 0].astype(np.uint16) * 12)
        write(root / f"masks/{i}.png", mask)
    return {}


def unlike_names(root: Path) -> dict[str, Any]:
    for i in range(4):
        image, mask = draw(i)
        write(root / f"images/{i}{'.jpg' if i % 2 else '.png'}", image)
        write(root / f"masks/{i}.png", mask)
    return {}


def split_above(root: Path) -> dict[str, Any]:
    for i in range(6):
        image, mask = draw(i)
        split = ("train", "val", "test")[i // 2]
        write(root / f"{split}/img/{i}.png", image)
        write(root / f"{split}/gt/{i}.png", mask)
    return {}


@pytest.mark.parametrize(
    "make", [two_folders, palette, painted, deep, unlike_names, split_above],
    ids=lambda make: make.__name__,
)  # fmt: skip
def test_the_config_loads_says_why_and_gives_the_right_labels(make: Any, tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    make(root)
    file = drafted(root)
    lines = file.read_text().splitlines()
    assert len(lines) <= MOST_LINES
    assert max(map(len, lines)) <= 100 or str(tmp_path) in max(lines, key=len)
    assert sum(line.startswith("#") for line in lines) > 10
    config = load_config(file)
    errors = [f for f in examine(config, num_processes=1, progress=False).findings
              if f.severity == "error"]  # fmt: skip
    assert [error.as_text() for error in errors] == []
    shapes, seen = set(), set()
    for split in ("train", "val", "test"):
        dataset = DATASETS.build(config[f"{split}_dataloader"].dataset.to_dict())
        for i in range(len(dataset)):
            sample = dataset[i]
            shapes.add(tuple(sample["inputs"].shape)[:1])
            label = sample["data_samples"].gt_sem_seg.data.numpy()
            seen |= set(np.unique(label).tolist())
    count = config.model.decode_head.num_classes
    assert seen - {255} == set(range(count)) == set(range(len(config.metainfo.classes)))
    assert shapes == {(1,)} if make is deep else {(3,)}
    assert config.optim_wrapper.accumulative_counts == 2
    assert config.model.decode_head.loss_decode[1].type == "TverskyLoss"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MODELS.build(config.model.to_dict())


def test_a_long_list_of_classes_stays_on_one_page(tmp_path: Path) -> None:
    root = tmp_path / "data"
    values = tuple(range(0, 32))
    two_folders(root, 4, values)
    (root / "classes.txt").write_text("".join(f"a class with a long name {i}\n" for i in values))
    file = drafted(root)
    assert len(file.read_text().splitlines()) <= MOST_LINES
    assert len(load_config(file).val_dataloader.dataset.metainfo.classes) > 0


def test_a_time_for_few_steps_is_told_with_one_that_is_enough() -> None:
    cost = StepCost(4, SIZE, 0, 0, 0, 2.0, 1, 1)
    step = DryRun("CPU", (1, 1), 4, SIZE, (1.0, 1.0), cost, 1.0, 2.0, cost, 1, 0.1, 1, 100)
    # 2 s a step: 400 more take 800 s, with a tenth left for other things 889 s
    (note,) = too_short(Schedule(100, 4, 1, ""), step, 300.0)
    assert "100 steps are few" in note
    assert note.endswith("--minutes 20")
    (note,) = too_short(Schedule(499, 4, 1, ""), step, 300.0)
    assert note.endswith("--minutes 6")  # 302 s; what is given are 5 minutes
    assert too_short(Schedule(500, 4, 1, ""), step, 300.0) == []
    assert len(too_short(Schedule(996, 2, 2, ""), step, 300.0)) == 1  # 498 steps of two parts


def test_times_shares_and_names_are_checked() -> None:
    def asked(*words: str) -> Any:
        return request_of(build_parser().parse_args(["data", *words]))

    assert asked().seconds == 900
    assert asked("--hours", "0.5").seconds == 1800
    for words in (("--minutes", "-1"), ("--test", "1"), ("--out", "x.txt"), ("--ignore", "red")):
        with pytest.raises(UserError, match=words[0] if words[0] != "--ignore" else "'red'"):
            asked(*words)


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.mark.slow
def test_a_plan_alone_and_what_changes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two_folders(tmp_path / "data")
    words = ["data", "--from-scratch", "--minutes", "0.5"]
    with inside(tmp_path):
        main([*words, "--plan-only"])
        told = capsys.readouterr().out
        assert "my_data.py: written" in told
        for row in ("data", "classes", "split", "scale", "network", "crop", "loss", "schedule"):
            assert f"\n{row} " in f"\n{told}"
        text = Path("my_data.py").read_text()
        assert len(text.splitlines()) <= MOST_LINES
        assert "a step takes 0." in text
        main(words)  # nobody can be asked here
        told = capsys.readouterr().out
        assert "as planned before" in told
        assert "no terminal" in told
        assert "nlseg start data --from-scratch --minutes 0.5 --yes" in told
        assert Path("my_data.py").read_text() == text
        assert not Path("work_dirs").exists()
        write(Path("data/images/9.png"), draw(9)[0])
        main(words)
        assert "data has changed: 8 pictures then, 9 now" in capsys.readouterr().out
        with pytest.raises(SystemExit, match="2"):
            main([*words, "--ignore", "0", "--yes"])
        assert "was planned with ignore []" in capsys.readouterr().err
        Path("my_data_files/plan.json").unlink()
        with pytest.raises(SystemExit, match="2"):
            main([*words, "--yes"])
        assert "no plan of nlseg start stands beside it" in capsys.readouterr().err


@pytest.mark.slow
def test_from_a_folder_to_a_tested_model_and_the_second_call(tmp_path: Path) -> None:
    two_folders(tmp_path / "data", 6)
    words = ["-m", "nlseg", "start", "data", "--from-scratch", "--minutes", "0.2", "--yes"]
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "report: " in done.stdout

    def run() -> str:
        done = prepared.run(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    folder = tmp_path / "work_dirs/my_data"
    (page,) = folder.glob("test/*/report.html")
    (receipt,) = folder.glob("test/*/receipt.json")
    assert json.loads(receipt.read_text())
    # the folders of the dry run, which has gone, and of the test are not those of the training
    (scalars,) = folder.glob("*/vis_data/scalars.json")
    assert all("loss" in line or "mIoU" in line for line in scalars.read_text().splitlines())
    before = page.stat().st_mtime_ns
    told = run()
    assert "trained already" in told
    assert [p.stat().st_mtime_ns for p in folder.glob("test/*/report.html")] == [before]
    weights = next(folder.glob("iter_*.pth"))
    receipt.unlink()
    run()  # an interrupted test is done again, the training is not
    assert len(list(folder.glob("test/*/receipt.json"))) == 1
    assert list(folder.glob("iter_*.pth")) == [weights]


@pytest.mark.slow
def test_a_second_process_that_plans_the_same_is_refused_and_the_first_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two_folders(tmp_path / "data")
    words = ["data", "--from-scratch", "--minutes", "0.2", "--plan-only"]
    command = [sys.executable, "-m", "nlseg", "start", *words]
    first = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    lock = tmp_path / "my_data_files/.lock"
    while first.poll() is None and not (lock.is_file() and lock.stat().st_size):
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # in the middle of its plan
    with inside(tmp_path):
        with pytest.raises(SystemExit, match="2"):
            main(words)
        told = capsys.readouterr().err
        assert told.startswith(f"error: my_data_files: process {first.pid} on ")
        assert told.endswith("plans in this folder; wait for it, stop it, or give another --out\n")
        assert told.count("\n") == 1
        first.send_signal(signal.SIGCONT)
        _, said = first.communicate(timeout=240)
        assert first.returncode == 0
        assert "measuring training steps of 3 networks ...\n" in said
        assert "trying the batch ...\n" in said
        assert "dry run: building everything\n" in said
        text = Path("my_data.py").read_text()
        main(words)
        assert "as planned before" in capsys.readouterr().out
        assert Path("my_data.py").read_text() == text
        assert not Path("my_data_files/draft.py").exists()


@pytest.mark.slow
def test_on_a_terminal_what_is_unclear_is_asked(tmp_path: Path) -> None:
    two_folders(tmp_path / "data", 4, (0, 1, 2))
    text = on_a_terminal(tmp_path)
    assert "0 is a class, the background  (--background 0)" in text
    assert "later: nlseg start data" in text
    assert load_config(tmp_path / "my_data.py").metainfo.classes[0] == "background"
    assert "as planned before" in on_a_terminal(tmp_path)  # the answers are not asked for again


def on_a_terminal(tmp_path: Path) -> str:
    """Run the command on a terminal, take the first reading, and do not train."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "nlseg", "start", "data", "--from-scratch", "--minutes", "0.2"]
    process = subprocess.Popen(command, cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):
            while data := os.read(ours, 1024):
                said.extend(data)
                if said.endswith(b"to stop: "):
                    os.write(ours, b"1\n")
                elif said.endswith(b"[y/N] "):
                    os.write(ours, b"n\n")

    reader = threading.Thread(target=read)
    reader.start()
    assert process.wait(timeout=240) == 0, said.decode()
    reader.join()
    os.close(ours)
    return said.decode()
