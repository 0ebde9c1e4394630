"""tools/misc/print_config.py and migrate_config.py from the command line."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from nlseg.config.load import load_config
from nlseg.config.show import as_python, difference, read_any

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/gcnet/gcnet_r50-d8_4xb4-80k_ade20k-512x512.py"


class Done(NamedTuple):
    """What a command printed, and how it ended."""

    stdout: str
    stderr: str
    returncode: int


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a tool in this process, as from the project's root."""

    def call(tool: str, *args: object) -> Done:
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr("sys.argv", [tool, *map(str, args)])
        code = 0
        try:
            runpy.run_path(str(ROOT / "tools/misc" / tool), run_name="__main__")
        except SystemExit as end:
            code = int(end.code or 0)
        return Done(*capsys.readouterr(), code)

    return call


def test_printed_config_has_origins_and_loads_again(run: Run, tmp_path: Path) -> None:
    done = run("print_config.py", CONFIG, "--set", "lr=0.5")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    (depth,) = [line for line in lines if line.startswith("        depth=50,")]
    assert depth.endswith("# configs/_base_/models/gcnet_r50-d8.py:15")
    assert any("lr=0.5," in line and line.endswith("# --cfg-options lr=0.5") for line in lines)
    (tmp_path / "again.py").write_text(done.stdout)
    again = load_config(tmp_path / "again.py", check=False)
    assert again.to_dict() == load_config(CONFIG, ["lr=0.5"], check=False).to_dict()


def test_tree_of_files(run: Run) -> None:
    done = run("print_config.py", CONFIG.with_name(CONFIG.name.replace("r50", "r101")), "--tree")
    assert done.stdout.splitlines() == [
        "configs/gcnet/gcnet_r101-d8_4xb4-80k_ade20k-512x512.py",
        "    configs/gcnet/gcnet_r50-d8_4xb4-80k_ade20k-512x512.py",
        "        configs/_base_/models/gcnet_r50-d8.py",
        "        configs/_base_/datasets/ade20k.py",
        "        configs/_base_/default_runtime.py",
        "        configs/_base_/schedules/schedule_80k.py",
    ]


def test_mistakes_are_printed_without_traceback(run: Run) -> None:
    done = run("print_config.py", CONFIG, "--set", "model.decode_head.ration=0.5")
    assert done.returncode == 2
    assert "GCHead has no 'ration'; did you mean 'ratio'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_difference_names_paths_values_and_origins() -> None:
    one = load_config(CONFIG, check=False)
    other = load_config(CONFIG, ["lr=0.5", "custom.note=1"], check=False)
    assert difference(one, one) == []
    lines = difference(one, other)
    assert lines[0].startswith("- optimizer.lr = 0.01  # ")
    assert lines[1] == "+ optimizer.lr = 0.5  # --cfg-options lr=0.5"
    assert lines[-1] == "+ custom.note = 1  # --cfg-options custom.note=1"


def test_difference_to_a_checkpoint_reads_its_text_as_data(run: Run, tmp_path: Path) -> None:
    config = load_config(CONFIG, ["lr=0.5"], check=False)
    path = tmp_path / "iter_1.pth"
    torch.save({"meta": {"cfg": config.pretty_text}, "state_dict": {}}, path)
    assert read_any(path).to_dict() == config.to_dict()
    done = run("print_config.py", CONFIG, "--diff", path)
    assert "- optim_wrapper.optimizer.lr = 0.5" in done.stdout
    assert f"# {path}" in done.stdout
    torch.save({"meta": {"cfg": "import os"}, "state_dict": {}}, path)
    done = run("print_config.py", CONFIG, "--diff", path)
    assert done.returncode == 2
    assert "no resolved config: line 1 is no assignment" in done.stderr


def test_plain_text_has_no_origins() -> None:
    first, *lines = as_python(load_config(CONFIG, check=False), origins=False).splitlines()
    assert first.startswith("# Resolved config")
    assert not any("#" in line for line in lines)


def test_migrated_file_is_written_under_its_new_name(run: Run, tmp_path: Path) -> None:
    old = tmp_path / "gcnet_r50-d8_512x1024_40k_cityscapes.py"
    old.write_text((Path(__file__).parent / "gcnet_of_0x.py.txt").read_text())
    done = run("migrate_config.py", old, "--out-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    new = tmp_path / "gcnet_r50-d8_4xb2-40k_cityscapes-512x1024.py"
    assert done.stdout.strip() == str(new)
    config = load_config(new)
    published = load_config(CONFIG.with_name(new.name), check=False)
    for key in ("model", "train_dataloader", "test_dataloader", "train_cfg", "default_hooks"):
        assert config[key] == published[key], key
