"""What a run needs is measured before it starts, and extrapolated to larger sizes."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from torch import nn

from nlseg.config import load_config
from nlseg.datasets.synthetic import write_street_scenes
from nlseg.errors import ConfigError
from nlseg.memory import _free_in_container, _free_on_system, shown_bytes
from nlseg.plan import auto_batch
from nlseg.plan.auto_batch import accumulate, enable_rate_scaling, fit_batch_size, largest_part
from nlseg.plan.dry_run import DryRun, dry_run, report
from nlseg.plan.memory import TensorMemory
from nlseg.plan.training_step import (
    StepCost,
    StepProbe,
    cut,
    drawn_batch,
    extrapolate,
    full_bytes,
    smaller_sizes,
)

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
QUICK = CONFIGS / "quickstart/nonlocal_r18-d8_1xb4-300_synthetic-96x192.py"
SMALL = [
    "model.backbone.base_channels=8", "model.backbone.stem_channels=8",
    "model.decode_head.in_channels=64", "model.decode_head.channels=16",
    "model.auxiliary_head.in_channels=32", "model.auxiliary_head.channels=8",
    "num_workers=0", "batch_size=2",
]  # fmt: skip
CPU = torch.device("cpu")


def step(pixels: int, **values: float) -> StepCost:
    zero = {"held_bytes": 0, "work_bytes": 0, "update_bytes": 0, "seconds": 0.0}
    return StepCost(1, (1, pixels), **{**zero, "flops": 0, "forward_flops": 0, **values})


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    write_street_scenes(root, num_train=4, num_val=1)
    return root


@pytest.fixture(scope="module")
def small(scenes: Path) -> Config:
    return load_config(QUICK, [*SMALL, f"data_root={scenes}"])


def test_tensor_memory_by_hand() -> None:
    memory = TensorMemory(CPU, 100)
    with memory:
        kept = torch.zeros(1000)  # 4000 bytes
        both = torch.cat([kept, kept])  # 8000 bytes more
        same = both.view(2, 1000)  # no bytes of its own
        assert memory.now == 12100
        del both, same
        assert memory.now == 4100
        kept = torch.zeros(10)
    assert memory.take_peak() == 12100
    assert memory.now == memory.take_peak() == 140
    del kept


def test_gradients_of_parameters_are_left_out() -> None:
    layer = nn.Linear(100, 50, bias=False)
    memory = TensorMemory(CPU, 0)
    with memory:
        loss = layer(torch.ones(1, 100)).sum()
        before = memory.now
        with memory.without_gradients(layer):
            loss.backward()
            assert memory.now <= before + 4
        assert memory.now >= 100 * 50 * 4


def test_extrapolation_is_exact_for_what_obeys_the_formula() -> None:
    # a + n (b p + c p^2) with a = 7, b = 2, c = 0.5: for n = 3 and p = 100 it is 7 + 3 * 5200
    steps = [step(p, flops=7 + 2 * p + 0.5 * p * p) for p in (10, 20, 40)]
    assert extrapolate(steps, "flops", (10, 10), 3) == pytest.approx(15607)
    line = [step(p, work_bytes=7 + 2 * p) for p in (10, 20, 40)]
    assert extrapolate(line, "work_bytes", (10, 10), 3) == pytest.approx(607)
    assert full_bytes([step(10, work_bytes=20, update_bytes=900)], (10, 10), 1) == 900


def test_noise_of_short_steps_gives_no_negative_time() -> None:
    falling = [step(p, seconds=value) for p, value in ((10, 0.9), (20, 0.5), (40, 0.2))]
    assert extrapolate(falling, "seconds", (10, 10), 4) == 0.2
    bent = [step(p, seconds=value) for p, value in ((10, 0.1), (20, 0.9), (40, 1.0))]
    assert extrapolate(bent, "seconds", (10, 10), 1) >= 1.0


def test_smaller_sizes() -> None:
    assert smaller_sizes((512, 1024)) == [(128, 256), (256, 512), (384, 768)]
    assert smaller_sizes((96, 192)) == [(32, 48), (48, 96), (72, 144)]
    assert smaller_sizes((24, 24)) == [(24, 24)]


def test_carried_on_memory_and_operations_equal_the_measured_ones(small: Config) -> None:
    size = (192, 384)  # in smaller ones weights matter more than maps
    probe = auto_batch._make_probe(small)
    inputs, samples = drawn_batch(2, size, 19, CPU)
    steps = [probe.measure(*cut(inputs, samples, 1, part)) for part in smaller_sizes(size)]
    full = probe.measure(inputs, samples)
    for name in ("flops", "forward_flops"):
        assert extrapolate(steps, name, size, 2) == pytest.approx(getattr(full, name))
    assert full_bytes(steps, size, 2) == pytest.approx(full.peak_bytes, rel=0.05)
    assert 2.5 * full.forward_flops < full.flops < 3.5 * full.forward_flops


def test_operations_of_one_convolution_by_hand() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 3, padding=1, bias=False)

        def forward(self, inputs: torch.Tensor, _: object, mode: str) -> dict[str, torch.Tensor]:
            return {"loss": self.conv(inputs).mean()}

        def parse_losses(self, losses: dict[str, torch.Tensor]) -> tuple[torch.Tensor, None]:
            return losses["loss"], None

    from mmengine.optim import OptimWrapper

    model = Model()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    found = StepProbe(model, wrapper).measure(torch.zeros(2, 3, 8, 6), [])
    # two for each multiply-add: 2 * N * H * W * in * out * 3 * 3
    assert found.forward_flops == 2 * 2 * 8 * 6 * 3 * 5 * 9
    assert found.flops == 2 * found.forward_flops  # backward: the weight's gradient only
    assert found.held_bytes == 2 * 3 * 5 * 9 * 4  # weight and momentum


def test_dry_run_tells_what_a_run_needs(small: Config, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = small.to_dict()
    run = dry_run(small)
    assert run.size == (96, 192)
    assert run.images == 2
    assert run.iterations == 300
    assert run.full is not None
    assert run.full.peak_bytes == pytest.approx(run.memory_bytes, rel=0.1)
    assert run.duration_s >= 300 * run.full.seconds
    assert small.to_dict() == before
    assert list(tmp_path.iterdir()) == []
    text = report(run)
    assert "for one image of 96x192" in text
    assert "300 iterations take" in text


def test_report_names_the_bottleneck_and_the_duration() -> None:
    last = StepCost(1, (48, 96), 0, 0, 0, 0.5, 0, 0)
    numbers = {"flops": (1e9, 3e9), "small": last, "memory_bytes": 5e9, "step_s": 2.0}
    rest = {"full": None, "free": 4 * 2**30, "data_s": 3.0, "batches": 4, "iterations": 7200}
    run = DryRun("CPU", (5, 4), 2, (96, 192), **numbers, **rest)
    text = report(run)
    assert run.duration_s == 7200 * 3.0
    assert "7200 iterations take 6:00:00" in text
    assert "loading is slower: raise train_dataloader.num_workers" in text
    assert "the step does not fit into memory; see --auto-batch" in text


def start_process(scenes: Path, folder: Path, stderr: Any) -> subprocess.Popen[str]:
    """Start a dry run as a user does."""
    command = [sys.executable, "-m", "nlseg", "train", str(QUICK), "--dry-run", "--set", *SMALL]
    return subprocess.Popen(
        [*command, f"data_root={scenes}"], cwd=folder, stdout=subprocess.PIPE, stderr=stderr,
        text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def times_in(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"(-?[\d.]+) s\b", text)]


@pytest.mark.slow
def test_a_dry_run_tells_what_it_measures_while_it_does(scenes: Path, tmp_path: Path) -> None:
    process = start_process(scenes, tmp_path, subprocess.PIPE)
    report_text, progress = process.communicate(timeout=120)
    assert process.returncode == 0, progress
    assert not any(tmp_path.iterdir())
    assert [line for line in progress.splitlines() if line.startswith("dry run: ")] == [
        "dry run: building everything", "dry run: loading batches",
        "dry run: a step of 1 image, 32x48 px", "dry run: a step of 1 image, 48x96 px",
        "dry run: a step of 1 image, 72x144 px", "dry run: a step of 2 images, 96x192 px",
    ]  # fmt: skip
    assert len(times_in(report_text)) == 4  # small step, extrapolated, full, loading
    assert min(times_in(report_text)) >= 0
    assert re.search(r"300 iterations take \d+:\d\d:\d\d", report_text)


@pytest.mark.slow
def test_a_dry_run_shows_a_bar_on_a_terminal(scenes: Path, tmp_path: Path) -> None:
    keyboard, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    process = start_process(scenes, tmp_path, terminal)
    os.close(terminal)
    shown = ""
    with suppress(OSError):  # the process has closed its end
        while text := os.read(keyboard, 1 << 12).decode():
            shown += text
    os.close(keyboard)
    report_text, _ = process.communicate(timeout=120)
    assert process.returncode == 0, shown
    for part in ("building everything", "loading batches", "a step of 1 image, 72x144 px"):
        assert re.search(rf"{part}: +\d+%\|", shown), part
    assert "| 6/6 [" in shown
    assert "-" not in "".join(re.findall(r"\[(\S+)<(\S+),", shown)[-1])
    assert min(times_in(report_text)) >= 0


def test_largest_part_divides_the_batch() -> None:
    assert largest_part(12, lambda n: n <= 5) == 4
    assert largest_part(7, lambda n: n <= 5) == 1
    assert largest_part(8, lambda n: n <= 0) == 0


def test_accumulation_keeps_batch_schedule_and_intervals() -> None:
    config = load_config(QUICK, check=False)
    accumulate(config, 4)
    assert config.train_dataloader.batch_size == 1
    assert config.optim_wrapper.accumulative_counts == 4
    assert config.train_cfg.max_iters == config.param_scheduler[0].end == 1200
    assert config.train_cfg.val_interval == config.default_hooks.checkpoint.interval == 400


def test_rate_is_scaled_from_the_batch_in_the_name() -> None:
    config = load_config(QUICK, check=False)
    enable_rate_scaling(config)
    assert config.auto_scale_lr == {"base_batch_size": 4, "enable": True}
    accumulate(config, 2)  # a part of 2 images is compared with half of the base
    assert config.auto_scale_lr.base_batch_size == 2
    config = load_config(QUICK, ["auto_scale_lr.base_batch_size=16"], check=False)
    enable_rate_scaling(config)
    assert config.auto_scale_lr == {"base_batch_size": 16, "enable": True}
    with pytest.raises(ConfigError, match="the file's name says no batch size"):
        enable_rate_scaling(Config({"model": {}}))


def test_auto_batch_takes_what_fits(small: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = auto_batch._make_probe(small)
    inputs, samples = drawn_batch(1, (96, 192), 19, CPU)
    steps = [probe.measure(*cut(inputs, samples, 1, size)) for size in smaller_sizes((96, 192))]
    two = full_bytes(steps, (96, 192), 2)
    monkeypatch.setattr(auto_batch, "free_bytes", lambda device: two * 1.05)
    config = load_config(QUICK, [*SMALL, "batch_size=8"], check=False)
    assert fit_batch_size(config, share=1.0) == 4
    assert config.train_dataloader.batch_size == 2
    monkeypatch.setattr(auto_batch, "free_bytes", lambda device: 0)
    with pytest.raises(ConfigError, match="not one image of 96x192 fits into memory"):
        fit_batch_size(load_config(QUICK, SMALL, check=False))


def test_free_memory(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable:   20 kB\n")
    assert _free_on_system(tmp_path / "meminfo") == 20 * 1024
    (tmp_path / "memory.current").write_text("100\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert _free_in_container(tmp_path) is None
    (tmp_path / "memory.max").write_text("250\n")
    assert _free_in_container(tmp_path) == 150
    (tmp_path / "memory.stat").write_text("anon 20\nactive_file 30\ninactive_file 40\n")
    assert _free_in_container(tmp_path) == 220
    assert shown_bytes(3 * 2**20) == "3 MiB"
    assert shown_bytes(12 * 2**30) == "12.0 GiB"
