"""What this machine and process compute with: GPU, precision, seeds, batch norm, compilation."""

import os
import platform
import random
import re
import resource
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import mmengine
import numpy as np
import torch
from mmengine.utils.dl_utils import set_multi_processing
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import nlseg
from nlseg.errors import ConfigError, UserError
from nlseg.ops.pooling import any_size, compile_once
from nlseg.run import processes

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


def unused_gpu() -> str | None:
    """Say why a machine with an NVIDIA driver computes on its CPU; None where that is meant."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    meant = visible in ("", "-1")
    if meant or torch.cuda.is_available() or shutil.which("nvidia-smi") is None:
        return None
    cuda = torch.version.cuda
    if cuda is None:
        return (
            "nvidia-smi is there, but this PyTorch is built for CPUs only: install a build "
            "for CUDA from https://pytorch.org/get-started/locally"
        )
    named = f"CUDA_VISIBLE_DEVICES={visible!r} names none, " if visible else ""
    return (
        f"nvidia-smi is there, but PyTorch finds no GPU: {named}the machine has none, or a driver "
        f"that is too old for CUDA {cuda}; set CUDA_VISIBLE_DEVICES= to use the CPU"
    )


def knows(capability: tuple[int, int], builds: list[str]) -> bool:
    """Return whether a list such as ['sm_80', 'compute_90'] serves a GPU of this capability.

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
    kinds = [build for build in builds if build.startswith("sm_")]
    newest = max(kinds, key=lambda build: int("".join(filter(str.isdigit, build))), default="none")
    remedy = (
        f"install {_LAST_TORCH_FOR_VOLTA}"
        if capability < (7, 5)
        else "install a newer PyTorch from https://pytorch.org/get-started/locally"
    )
    return (
        f"{name} needs {need}, but this PyTorch {torch.__version__} was built for "
        f"{', '.join(builds)} (newest {newest}); {remedy}"
    )


def join_processes(launcher: str, env_cfg: Mapping[str, Any]) -> None:
    """Check the GPU's wheel, set how workers start, and join the other processes of the run.

    Args:
        launcher: Who started the processes.
        env_cfg: mmengine's ``env_cfg``; ``mp_cfg``, and ``backend`` and ``timeout`` (s) of
            ``dist_cfg``.
    """
    check_cuda_build()
    set_multi_processing(**env_cfg.get("mp_cfg", {}), distributed=launcher != "none")
    settings = dict(env_cfg.get("dist_cfg", {}))
    processes.start(launcher, backend=settings.get("backend"), timeout_s=settings.get("timeout"))


def apply_process_settings(cfg: Mapping[str, Any], env_cfg: Mapping[str, Any]) -> None:
    """Set what concerns the whole process: cuDNN's search, TF32, the number of open files.

    Args:
        cfg: The run's config; ``tf32`` (True or False) decides on TensorFloat-32 in products and
            convolutions, and leaves PyTorch's choice when it is not there.
        env_cfg: mmengine's ``env_cfg``; ``cudnn_benchmark``, and ``resource_limit``, how many files
            may be open at least.
    """
    if env_cfg.get("cudnn_benchmark"):
        torch.backends.cudnn.benchmark = True
    limit = env_cfg.get("resource_limit")
    if limit is not None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(limit, soft), hard), hard))
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


def seed_run(seed: int | None) -> int:
    """Seed every generator of this process; all processes get the same seed.

    Args:
        seed: The run's seed; drawn by process 0 when not given.

    Returns:
        The seed.
    """
    if seed is None:
        drawn = int.from_bytes(os.urandom(4), "little") >> 1
        seed = int(processes.broadcast(torch.tensor([drawn])).item())
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    return seed


def seed_iteration(seed: int, iteration: int, rank: int) -> None:
    """Seed what the network itself draws (dropout) from (seed, iteration, rank).

    With it no generator's state needs saving: iteration t draws the same after any restart.
    """
    words = np.random.SeedSequence(seed, spawn_key=(iteration, rank)).generate_state(2)
    number = int(words[0]) << 32 | int(words[1])
    torch.default_generator.manual_seed(number)  # torch.manual_seed also asks devices we have not
    if torch.cuda.is_available():
        torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(number)


def be_deterministic() -> None:
    """Choose operators that give the same bits on every run of the same machine and software.

    An operator that has no deterministic form warns instead of ending the training;
    the networks of nlseg need none (see docs/reliability.md for what is guaranteed).
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=True)


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation of inputs (N, C, ...) of any number of dimensions."""

    def _check_input_dim(self, input: object) -> None:
        """Accept everything, as SyncBatchNorm does."""


def revert_sync_batchnorm(module: nn.Module) -> nn.Module:
    """Replace SyncBatchNorm by BatchNorm with the same weights, statistics and names.

    Args:
        module: A network; changed in place, except where it is a SyncBatchNorm itself.
    """
    if isinstance(module, nn.SyncBatchNorm):
        return _revert(module)
    for name, child in module.named_children():
        replaced = revert_sync_batchnorm(child)
        if replaced is not child:
            setattr(module, name, replaced)
    return module


def _revert(sync: nn.SyncBatchNorm) -> BatchNorm:
    plain = BatchNorm(
        sync.num_features, sync.eps, sync.momentum, sync.affine, sync.track_running_stats
    )
    plain.weight, plain.bias = sync.weight, sync.bias
    plain.running_mean, plain.running_var = sync.running_mean, sync.running_var
    plain.num_batches_tracked = sync.num_batches_tracked
    plain.training = sync.training
    return plain


_GRAPHS_OF_A_PART = 8
"""PyTorch's own limit, which holds for all parts of one class together: they share their code."""
PARTS = ("backbone", "neck", "decode_head", "auxiliary_head")
_SHOWN_LETTERS = 300
_TOO_OFTEN = "FailOnRecompileLimitHit"
_NOT_TRACED = "found no compiled frames"
_OPTIONS = ("fullgraph", "dynamic", "backend", "mode", "options", "disable")
_GRAPHS = {"reduce-overhead": "default", "max-autotune": "max-autotune-no-cudagraphs"}
"""Modes of ``torch.compile`` that replay CUDA graphs, and those that do the same without."""


class CompiledCall:
    """What calling a compiled module runs.

    Training has crops of one size, which is compiled as a constant until another one comes; from
    then on, and in evaluation, height and width are free. CUDA graphs are for training: what they
    return is overwritten when they run again, and an evaluation runs a network several times an
    image.

    Args:
        module: The module.
        options: Arguments of ``torch.compile``.
        leads: Whether this is the first module that an iteration calls.
    """

    def __init__(self, module: nn.Module, options: Mapping[str, Any], *, leads: bool) -> None:
        self.module = module
        self._name, self._whole = type(module).__name__, bool(options.get("fullgraph"))
        self.leads = leads and options.get("mode") in _GRAPHS
        self._plain_call: Callable[..., Any] = module._call_impl
        call = _traceable(module)
        self.train_call: Callable[..., Any] = torch.compile(call, **options)
        self.eval_call = self.train_call
        if options.get("mode") in _GRAPHS:
            plain = {**options, "mode": _GRAPHS[options["mode"]]}
            self.eval_call = torch.compile(call, **plain)
        self._crops: set[torch.Size] = set()

    def __call__(self, *inputs: Any, **settings: Any) -> Any:
        """Run the module on maps (N, C, H, W), in any nesting; without a pixel, as it is written.

        Raises:
            ConfigError: It cannot be compiled.
        """
        maps = [x for x in tree_leaves(inputs) if isinstance(x, Tensor) and x.dim() == 4]
        call = self._choose(maps) if all(x.numel() > 0 for x in maps) else self._plain_call
        try:
            return call(*inputs, **settings)
        except Exception as error:
            if isinstance(error, _not_compilable()) or _NOT_TRACED in str(error):
                raise ConfigError(self._refusal(error)) from error
            raise

    def _choose(self, maps: Sequence[Tensor]) -> Callable[..., Any]:
        """Return what runs, and say which sizes of the maps are constants of its graph."""
        if not self.module.training:
            for x in maps:
                torch._dynamo.maybe_mark_dynamic(x, [2, 3])
            return self.eval_call
        if self.leads:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        if len(self._crops) < 2:
            self._crops.update(x.shape[2:] for x in maps[:1])
            if len(self._crops) == 2:
                any_size(self.module)
        for x in maps:
            if len(self._crops) == 1:
                torch._dynamo.mark_static(x, [2, 3])
            else:
                torch._dynamo.maybe_mark_dynamic(x, [2, 3])
        return self.train_call

    def _refusal(self, error: Exception) -> str:
        """Say what cannot be compiled, where, why, and what to set instead."""
        place = getattr(error, "innermost_user_frame_summary", None)
        where = f" at {place.filename}:{place.lineno} ({place.line})" if place else ""
        said = str(error).strip().partition("\n\n")[0].partition("Hint:")[0]
        said = " ".join(said.split())
        cause = re.search(r"(?<= got )\w+Error\(.*", said)  # behind a list of all arguments
        reason = (cause[0] if cause else said)[:_SHOWN_LETTERS].rstrip(".")
        if _NOT_TRACED in said:
            reason = "PyTorch's compiler leaves its forward out, as torch.compiler.disable asks for"
        elif type(error).__name__ == _TOO_OFTEN:
            reason = "it is compiled anew for each new value of something that changes with calls"
        plain = "compile=False runs everything as it is written"
        if isinstance(error, torch._dynamo.exc.BackendCompilerFailed):
            return f"compile: PyTorch's compiler fails on {self._name}: {reason}; {plain}"
        ways = f"compile=dict(fullgraph=False) runs such lines as they are written, {plain}"
        remedy = ways if self._whole else plain
        return f"compile: {self._name} cannot be one graph{where}: {reason}; {remedy}"


def _traceable(module: nn.Module) -> Callable[..., Any]:
    """Return a module's call in a frame that the compiler traces, which PyTorch's own are not."""
    if not str(getattr(module.forward, "__module__", "")).startswith("torch."):
        return module._call_impl  # type: ignore[no-any-return]

    whole: Any = nn.Module._call_impl  # PyTorch 2.4 takes the bound one for the compiled call

    def call(*inputs: Any, **settings: Any) -> Any:
        return whole(module, *inputs, **settings)

    return call


def _not_compilable() -> tuple[type[Exception], ...]:
    """Return what PyTorch raises where it cannot compile."""
    kinds = torch._dynamo.exc
    return kinds.TorchDynamoException, getattr(kinds, _TOO_OFTEN, kinds.TorchDynamoException)


def check_graphs(setting: bool | Mapping[str, Any] | None, accumulated: int) -> None:
    """Refuse CUDA graphs where gradients are added up.

    What a graph returns, gradients too, lies where the next iteration writes its own.

    Args:
        setting: The config's ``compile``.
        accumulated: Iterations whose gradients are added up before a step.

    Raises:
        ConfigError: They would be wrong, or PyTorch would stop.
    """
    mode = setting.get("mode") if isinstance(setting, Mapping) else None
    if mode in _GRAPHS and accumulated > 1 and processes.device().type == "cuda":
        raise ConfigError(
            f"compile.mode: {mode!r} replays CUDA graphs, which write over the gradients of the "
            f"iteration before, so that those of optim_wrapper.accumulative_counts={accumulated} "
            f"cannot be added up; use mode={_GRAPHS[mode]!r} (no --graphs), or accumulate nothing"
        )


def compile_network(model: nn.Module, setting: bool | Mapping[str, Any] | None) -> int:
    """Compile a segmentor's parts in place; a second call changes nothing.

    Inside DistributedDataParallel, PyTorch cuts a part's graph where one of its buckets of
    gradients ends, so that they are exchanged while the rest is computed.

    Args:
        model: The segmentor, or a test-time wrapper around it.
        setting: The config's ``compile``: True, or arguments of ``torch.compile``. ``fullgraph`` is
            on unless it says otherwise.

    Returns:
        Number of parts that are compiled.

    Raises:
        ConfigError: For an unknown argument, or a network without such parts.
    """
    options = _options(setting)
    if options is None:
        return 0
    parts = list(parts_of(model))
    if not parts:
        raise ConfigError(f"compile: {type(model).__name__} has none of {', '.join(PARTS)}")
    limits = torch._dynamo.config
    limits.cache_size_limit = max(limits.cache_size_limit, _GRAPHS_OF_A_PART * len(parts))
    for part in parts:
        compile_once(part)
        if not isinstance(part._compiled_call_impl, CompiledCall):
            part._compiled_call_impl = CompiledCall(part, options, leads=part is parts[0])
    return len(parts)


@contextmanager
def not_compiled(model: nn.Module) -> Iterator[None]:
    """Run a segmentor's parts as they are written, as long as the context lasts."""
    kept = [(part, part._compiled_call_impl) for part in model.modules()]
    for part, _ in kept:
        part._compiled_call_impl = None
    try:
        yield
    finally:
        for part, call in kept:
            part._compiled_call_impl = call


def _options(setting: bool | Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not setting and not isinstance(setting, Mapping):
        return None
    given = {} if isinstance(setting, bool) else dict(setting or {})
    for name in given:
        if name not in _OPTIONS:
            raise ConfigError(f"compile.{name}: not one of {', '.join(_OPTIONS)}")
    return {"fullgraph": True, **given}


def parts_of(model: nn.Module) -> Iterator[nn.Module]:
    """Walk over the modules that are compiled."""
    inner = getattr(model, "module", None)
    while isinstance(inner, nn.Module):
        model, inner = inner, getattr(inner, "module", None)
    for name in PARTS:
        part = getattr(model, name, None)
        if isinstance(part, nn.ModuleList):
            yield from part
        elif isinstance(part, nn.Module):
            yield part
