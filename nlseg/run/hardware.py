"""What the machine can do: does this PyTorch know its GPU, and which fast settings are on."""

import platform
from collections.abc import Mapping
from typing import Any

import mmengine
import torch

import nlseg
from nlseg.errors import UserError

_LAST_TORCH_FOR_VOLTA = "torch<2.11, or a wheel for CUDA 12.6"
_FUSED = ("SGD", "Adam", "AdamW", "Adagrad")


def check_cuda_build() -> None:
    """Stop before training when this PyTorch holds no code for the GPU.

    Raises:
        UserError: It names the GPU and what to install.
    """
    if not torch.cuda.is_available():
        return
    for index in range(torch.cuda.device_count()):
        capability = torch.cuda.get_device_capability(index)
        if not knows(capability, torch.cuda.get_arch_list()):
            name = torch.cuda.get_device_name(index)
            raise UserError(explain(name, capability, torch.cuda.get_arch_list()))


def knows(capability: tuple[int, int], builds: list[str]) -> bool:
    """Tell whether a list such as ['sm_80', 'compute_90'] serves a GPU of this capability.

    Code for sm_XY runs on GPUs of the same generation X from Y on; compute_XY is compiled at
    start-up for any later one.
    """
    major, minor = capability
    for build in builds:
        kind, _, number = build.partition("_")
        digits = "".join(filter(str.isdigit, number))
        built = (int(digits[:-1]), int(digits[-1])) if len(digits) > 1 else (99, 0)
        if kind == "sm" and built[0] == major and built[1] <= minor:
            return True
        if kind == "compute" and built <= (major, minor):
            return True
    return not builds


def explain(name: str, capability: tuple[int, int], builds: list[str]) -> str:
    """Say what to install for a GPU that this PyTorch has no code for."""
    need = f"sm_{capability[0]}{capability[1]}"
    newest = max((build for build in builds if build.startswith("sm_")), default="none")
    remedy = (
        f"install {_LAST_TORCH_FOR_VOLTA}"
        if capability < (7, 5)
        else "install a newer PyTorch from https://pytorch.org/get-started/locally"
    )
    return (
        f"{name} needs {need}, but this PyTorch {torch.__version__} was built for "
        f"{', '.join(builds)} (newest {newest}); {remedy}"
    )


def apply_speed_settings(cfg: Mapping[str, Any], env_cfg: Mapping[str, Any]) -> None:
    """Set what concerns the whole process: cuDNN's search, TF32.

    Args:
        cfg: The run's config; ``tf32`` (True or False) decides on TensorFloat-32 in products and
            convolutions, and leaves PyTorch's choice when it is not there.
        env_cfg: mmengine's ``env_cfg``; ``cudnn_benchmark``.
    """
    if env_cfg.get("cudnn_benchmark"):
        torch.backends.cudnn.benchmark = True
    tf32 = cfg.get("tf32")
    if tf32 is not None:
        torch.backends.cuda.matmul.allow_tf32 = bool(tf32)
        torch.backends.cudnn.allow_tf32 = bool(tf32)


def prefer_fused(optim_wrapper: dict[str, Any]) -> dict[str, Any]:
    """Choose the fused form of an optimizer on CUDA unless the config decides.

    A fused optimizer can leave out a step without the host knowing, so that checking for NaN costs
    no wait (see ``optim``).
    """
    optimizer = optim_wrapper.get("optimizer")
    if not torch.cuda.is_available() or not isinstance(optimizer, dict):
        return optim_wrapper
    decided = {"fused", "foreach", "capturable", "differentiable"} & set(optimizer)
    if optimizer.get("type") in _FUSED and not decided:
        return {**optim_wrapper, "optimizer": {**optimizer, "fused": True}}
    return optim_wrapper


def describe_environment(seed: int, processes: int, launcher: str) -> str:
    """Write what a run should note about its machine; nothing from the environment's variables."""
    if torch.cuda.is_available():
        devices = f"{torch.cuda.get_device_name()} (CUDA {torch.version.cuda})"
    else:
        devices = f"CPU, {torch.get_num_threads()} threads"
    facts = {
        "nlseg": nlseg.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "mmengine": mmengine.__version__,
        "device": devices,
        "processes": f"{processes} (launcher {launcher})",
        "seed": seed,
    }
    return "\n" + "\n".join(f"    {name}: {value}" for name, value in facts.items())
