"""The preset ``--fast``: which settings are quick and safe on the hardware that is found.

It sets plain config keys and says which and why. A key that the config gives itself is left alone.
Results change by rounding only, in the parts that run in half precision.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from mmengine.config import Config, ConfigDict

from nlseg.errors import ConfigError
from nlseg.run.processes import read_environment

HALF_FLAGS = ("avx512_bf16", "amx_bf16")
VOLTA, AMPERE = (7, 0), (8, 0)
_MISSING = object()


@dataclass(frozen=True)
class Hardware:
    """What decides which settings pay.

    Args:
        kind: Where the network runs.
        name: What to call it.
        capability: Compute capability of a GPU.
        half_flags: Instructions of a CPU that multiply in bfloat16.
    """

    kind: Literal["cuda", "cpu"]
    name: str
    capability: tuple[int, int] = (0, 0)
    half_flags: tuple[str, ...] = ()

    @property
    def half(self) -> Literal["float16", "bfloat16"] | None:
        """The half precision that is quick and safe here, None where there is none."""
        if self.kind == "cpu":
            return "bfloat16" if self.half_flags else None
        if self.capability >= AMPERE:
            return "bfloat16"
        return "float16" if self.capability >= VOLTA else None


@dataclass(frozen=True)
class FastChoice:
    """A setting and why it was chosen.

    Args:
        key: Place in the config, parts joined by dots.
        value: Its value.
        reason: Why, in a few words.
        replaces: Values that the config may have there and that are no decision.
    """

    key: str
    value: Any
    reason: str
    replaces: tuple[Any, ...] = ()


def find_hardware(cpuinfo: Path = Path("/proc/cpuinfo")) -> Hardware:
    """Look at the GPU or CPU that this process would compute on.

    Args:
        cpuinfo: Where Linux lists a CPU's instructions; elsewhere none are known.
    """
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        return Hardware("cuda", name, torch.cuda.get_device_capability())
    text = cpuinfo.read_text() if cpuinfo.is_file() else ""
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    return Hardware("cpu", "CPU", half_flags=tuple(f for f in HALF_FLAGS if f in flags))


def training_choices(
    hardware: Hardware, *, fixed_crops: bool = True, graphs: bool = False
) -> list[FastChoice]:
    """Return what training should use on this hardware.

    Args:
        hardware: Where it runs.
        fixed_crops: Whether all crops have one size.
        graphs: Whether compiled parts are replayed as CUDA graphs.
    """
    choices = _precision_of_training(hardware)
    if hardware.kind == "cpu":
        return choices + _formats(hardware)
    gpu = [FastChoice("optim_wrapper.optimizer.fused", True, "one kernel; NaN checks never wait")]
    if fixed_crops:
        reason = "crops have one size, so the search pays"
        gpu.append(FastChoice("env_cfg.cudnn_benchmark", True, reason))
    if graphs:
        reason = "one launch replays a part's kernels"
        gpu.append(FastChoice("compile", {"mode": "reduce-overhead"}, reason, (False, True)))
    return choices + gpu + _formats(hardware)


def testing_choices(hardware: Hardware) -> list[FastChoice]:
    """Return what evaluation should use on this hardware."""
    reason = "one pass over each map fewer; equal to rounding"
    choices = [FastChoice("test_cfg.fold_norms", True, reason)]
    if hardware.half is not None:
        choices.append(FastChoice("test_cfg.fp16", True, f"{_because(hardware)}; scores may round"))
        choices.append(FastChoice("test_cfg.dtype", hardware.half, "the type for it"))
    return choices + _formats(hardware)


def _precision_of_training(hardware: Hardware) -> list[FastChoice]:
    half = hardware.half
    if half is None:
        return []
    scaling = "gradients are scaled" if half == "float16" else "needs no gradient scaling"
    reason = f"{_because(hardware)}; {scaling}"
    return [
        FastChoice("optim_wrapper.type", "AmpOptimWrapper", "half precision", ("OptimWrapper",)),
        FastChoice("optim_wrapper.dtype", half, reason),
    ]


def _because(hardware: Hardware) -> str:
    if hardware.kind == "cpu":
        return f"the CPU has {' and '.join(hardware.half_flags)}"
    return f"{hardware.name} (sm_{hardware.capability[0]}{hardware.capability[1]}) computes in it"


def _formats(hardware: Hardware) -> list[FastChoice]:
    """Choose memory format and TF32."""
    choices = []
    on_cpu = hardware.kind == "cpu"
    if on_cpu or hardware.half is not None:
        half = "what its half precision convolutions take"
        reason = "convolutions then take maps as they are" if on_cpu else half
        choices.append(FastChoice("channels_last", True, reason))
        choices.append(FastChoice("model.data_preprocessor.channels_last", True, reason))
    if hardware.capability >= AMPERE:
        choices.append(
            FastChoice("tf32", True, "what stays in float32 is finer than bfloat16 still")
        )
    return choices


def apply(cfg: Config, choices: Iterable[FastChoice]) -> list[str]:
    """Set what the config does not decide itself.

    Args:
        cfg: Changed in place.
        choices: What to set.

    Returns:
        One line for each choice: what was set and why, or what the config keeps.
    """
    lines = []
    for choice in choices:
        *path, name = choice.key.split(".")
        holder = _holder(cfg, path)
        if holder is None:
            continue
        old = holder.get(name, _MISSING)
        if old is _MISSING or old is None or old in choice.replaces:
            holder[name] = choice.value
            lines.append(f"{choice.key}={choice.value!r}: {choice.reason}")
        elif old != choice.value:
            lines.append(f"{choice.key}={old!r} stays: the config says so")
    return lines


def _holder(cfg: Config, path: Sequence[str]) -> Any:
    """Return the dict that a key belongs in, None where the config has no such part."""
    holder: Any = cfg
    for i, part in enumerate(path):
        if part == "env_cfg" and i == 0:
            holder.setdefault(part, ConfigDict())
        inner = holder.get(part)
        if not isinstance(inner, dict):
            return None
        holder = inner.get("module", inner) if part == "model" else inner
    return holder


def describe(hardware: Hardware, lines: Sequence[str]) -> str:
    """Return what the preset says when it has chosen."""
    kind = hardware.name
    if hardware.kind == "cpu":
        found = " and ".join(hardware.half_flags)
        kind += f" with {found}" if found else f" without {' or '.join(HALF_FLAGS)}: float32"
    return "\n    ".join([f"--fast on {kind}:", *(lines or ["nothing to change"])])


def use_fast_training(cfg: Config, *, graphs: bool = False) -> None:
    """Turn on for training what is safe on this hardware, and say so on standard output.

    Args:
        cfg: Changed in place.
        graphs: Whether to compile, too, and to replay CUDA graphs.

    Raises:
        ConfigError: For graphs without a GPU or without a fixed size of crops, or for bfloat16 on
            a GPU that has no kernels for it.
    """
    hardware = find_hardware()
    check_bfloat16(hardware, "optim_wrapper", cfg.get("optim_wrapper"))
    fixed = (_holder(cfg, ("model", "data_preprocessor")) or {}).get("size") is not None
    if graphs and hardware.kind != "cuda":
        raise ConfigError("--graphs: CUDA graphs need a GPU, and none is visible")
    if graphs and not fixed:
        raise ConfigError(
            "--graphs: crops need one size; set model.data_preprocessor.size to that of crop_size"
        )
    choices = training_choices(hardware, fixed_crops=fixed, graphs=graphs)
    _say(cfg, describe(hardware, apply(cfg, choices)))


def check_bfloat16(hardware: Hardware, place: str, settings: Any) -> None:
    """Refuse a config's bfloat16 on a GPU before Ampere, for which PyTorch has no kernels.

    Args:
        hardware: Where it would run.
        place: Where in the config the settings stand.
        settings: A dict that may hold ``dtype``.

    Raises:
        ConfigError: It asks for that.
    """
    dtype = settings.get("dtype") if isinstance(settings, dict) else None
    if dtype == "bfloat16" and hardware.kind == "cuda" and hardware.capability < AMPERE:
        raise ConfigError(
            f"{place}.dtype: 'bfloat16', but {hardware.name} (sm_{hardware.capability[0]}"
            f"{hardware.capability[1]}) has no kernels for it; use 'float16'"
        )


def use_fast_testing(cfg: Config) -> None:
    """Turn on for evaluation what is safe on this hardware, and say so on standard output.

    Raises:
        ConfigError: For bfloat16 on a GPU that has no kernels for it.
    """
    hardware = find_hardware()
    check_bfloat16(hardware, "test_cfg", cfg.get("test_cfg"))
    _say(cfg, describe(hardware, apply(cfg, testing_choices(hardware))))


def _say(cfg: Config, text: str) -> None:
    if read_environment(cfg.get("launcher", "none")).rank == 0:
        sys.stdout.write(f"{text}\n")
