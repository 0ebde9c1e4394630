from pathlib import Path

import pytest
import torch

from nlseg.errors import UserError
from nlseg.run import device
from tests.cases import each_case

WHEEL_2_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


@each_case(
    "capability, builds, known",
    [
        ((7, 0), WHEEL_2_13, False),  # V100
        ((7, 5), WHEEL_2_13, True),
        ((8, 0), WHEEL_2_13, True),
        ((8, 9), WHEEL_2_13, True),  # runs sm_86
        ((9, 0), WHEEL_2_13, True),
        ((12, 1), WHEEL_2_13, True),
        ((13, 0), WHEEL_2_13, True),  # compute_120 is compiled for it
        ((9, 0), ["sm_80"], False),
        ((9, 0), ["sm_90a"], True),
        ((7, 0), ["sm_70", "sm_80"], True),
    ],
)
def test_which_gpus_a_build_serves(
    capability: tuple[int, int], builds: list[str], known: bool
) -> None:
    assert device.knows(capability, builds) is known


def test_unknown_gpu_stops_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: WHEEL_2_13)
    with pytest.raises(
        UserError,
        match=r"Tesla V100 needs sm_70.*\(newest sm_120\).*torch<2\.11, or a wheel for CUDA",
    ):
        device.check_cuda_build()


def test_a_gpu_that_is_not_found_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert device.unused_gpu() is None  # there is no driver
    driver = tmp_path / "nvidia-smi"
    driver.touch(0o755)
    assert "no GPU: CUDA_VISIBLE_DEVICES='7' names none, the" in str(device.unused_gpu())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert "no GPU: the machine has none, or a driver that is" in str(device.unused_gpu())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert device.unused_gpu() is None  # the CPU is meant
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built for CPUs only" in str(device.unused_gpu())


def test_environment_shows_no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "secret-value")
    text = device.describe_environment(3, 2, "slurm")
    assert "secret" not in text
    assert "processes: 2 (launcher slurm)" in text


def test_fused_is_chosen_on_cuda_only_and_leaves_choices_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = {"optimizer": {"type": "SGD", "lr": 1.0}}
    assert device.prefer_fused(plain) == plain
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.prefer_fused(plain)["optimizer"]["fused"] is True
    assert "fused" not in plain["optimizer"]
    chosen = {"optimizer": {"type": "SGD", "foreach": True}}
    assert device.prefer_fused(chosen) == chosen
    other = {"optimizer": {"type": "LBFGS"}}
    assert device.prefer_fused(other) == other
