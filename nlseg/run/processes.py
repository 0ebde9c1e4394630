"""The one place that knows about processes: launcher, rank, device, collectives, wrapping.

CUDA is touched only where CUDA is available, so that the same code trains with several processes
on CPUs, where mmengine's own start calls CUDA. What all processes decide together in an iteration
is one small vector, reduced once (``Agreement``).
"""

import atexit
import faulthandler
import gc
import logging
import os
import re
import signal
import socket
import time
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

# Its functions take the group of all processes as a default, and would hold it for ever if the
# module were first imported, by DistributedDataParallel, when there is one.
import torch.distributed.nn
from mmengine.model import MMDistributedDataParallel
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nlseg.errors import RunError, UserError

LAUNCHERS = ("none", "pytorch", "slurm", "mpi")
DEFAULT_PORT = 29500


@dataclass(frozen=True)
class Process:
    """Who this process is among all.

    Args:
        rank: Number of this process over all nodes, from 0.
        world_size: Number of processes over all nodes.
        local_rank: Number of this process on its node, from 0.
        address: Host that rank 0 listens on.
        port: Port that rank 0 listens on.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    address: str = "127.0.0.1"
    port: int = DEFAULT_PORT


def read_environment(launcher: str, environment: Mapping[str, str] | None = None) -> Process:
    """Read who this process is from what the launcher left in the environment.

    Raises:
        UserError: The launcher is unknown or did not start this process.
    """
    env = os.environ if environment is None else environment
    readers = {
        "none": _read_none,
        "pytorch": _read_torchrun,
        "slurm": _read_slurm,
        "mpi": _read_mpi,
    }
    if launcher not in readers:
        raise UserError(f"--launcher {launcher}: unknown; choose from {', '.join(LAUNCHERS)}")
    try:
        return readers[launcher](env)
    except KeyError as error:
        raise UserError(
            f"--launcher {launcher}: the environment has no {error.args[0]}; start with "
            "tools/dist_train.sh (pytorch), tools/slurm_train.sh (slurm) or mpirun (mpi), or use "
            "--launcher none"
        ) from None


@contextmanager
def one_voice(launcher: str) -> Iterator[None]:
    """Let process 0 alone warn: while a run is read and built, all would say the same.

    Args:
        launcher: Who started the processes.
    """
    if read_environment(launcher).rank == 0:
        yield
        return
    logger = logging.getLogger("nlseg")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def _read_none(env: Mapping[str, str]) -> Process:
    return Process()


def _read_torchrun(env: Mapping[str, str]) -> Process:
    return Process(
        rank=int(env["RANK"]),
        world_size=int(env["WORLD_SIZE"]),
        local_rank=int(env["LOCAL_RANK"]),
        address=env.get("MASTER_ADDR", "127.0.0.1"),
        port=int(env.get("MASTER_PORT", DEFAULT_PORT)),
    )


def _read_slurm(env: Mapping[str, str]) -> Process:
    nodes = env.get("SLURM_STEP_NODELIST") or env["SLURM_NODELIST"]
    return Process(
        rank=int(env["SLURM_PROCID"]),
        world_size=int(env["SLURM_NTASKS"]),
        local_rank=int(env["SLURM_LOCALID"]),
        address=env.get("MASTER_ADDR") or first_host(nodes),
        port=int(env.get("MASTER_PORT") or slurm_port(env)),
    )


def _read_mpi(env: Mapping[str, str]) -> Process:
    if "OMPI_COMM_WORLD_RANK" not in env and "PMI_RANK" in env:
        names = ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID")
    else:
        names = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")
    one_node = env.get("OMPI_COMM_WORLD_LOCAL_SIZE") == env.get("OMPI_COMM_WORLD_SIZE")
    address = env.get("MASTER_ADDR", "127.0.0.1") if one_node else env["MASTER_ADDR"]
    rank, world_size, local_rank = (int(env[name]) for name in names)
    return Process(rank, world_size, local_rank, address, int(env.get("MASTER_PORT", DEFAULT_PORT)))


def first_host(nodes: str) -> str:
    """Return the first host of a Slurm node list such as ``gpu[03-05,9],login1``."""
    match = re.match(r"([^,\[]+)(?:\[([^\],-]+)[^\]]*\]([^,]*))?", nodes)
    if match is None:
        raise UserError(f"SLURM_NODELIST: cannot read a host from '{nodes}'; set MASTER_ADDR")
    return "".join(part or "" for part in match.groups())


def slurm_port(env: Mapping[str, str]) -> int:
    """Choose a port from the job and step number, so that two jobs on a node do not meet."""
    job, step = int(env.get("SLURM_JOB_ID", 0)), int(env.get("SLURM_STEP_ID", 0))
    return 15000 + (job * 17 + step) % 45000


def restart_count() -> int:
    """Count how often torchrun or Slurm has already started this job again."""
    names = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    return max(int(os.environ.get(name, "0")) for name in names)


def launch() -> str:
    """Name the torchrun that started this process; empty where none did.

    torchrun starts its processes again when a node comes or goes, and does not count that as a
    restart; its own process stays.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ""
    agent = os.getppid()
    try:
        started = Path(f"/proc/{agent}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        started = ""
    return f"{socket.gethostname()} {agent} {started}".strip()


def tell_launcher() -> None:
    """Tell tools/dist_train.sh that another node was asked to stop, so that it does not go on."""
    if (script := os.environ.get("NLSEG_LAUNCHER")) and os.environ.get("LOCAL_RANK") == "0":
        with suppress(OSError):
            os.kill(int(script), signal.SIGTERM)


DEFAULT_TIMEOUT_S = 1800.0
_LEAVING_S = 60.0
NON_FINITE, STOP, SAVE = 0, 1, 2
_LAG_ON_CUDA = 2


def free_port() -> int:
    """Ask the system for a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def start(launcher: str, *, backend: str | None = None, timeout_s: float | None = None) -> Process:
    """Join the other processes and take this process's device.

    Args:
        launcher: Who started the processes, one of ``LAUNCHERS``.
        backend: Backend of the process group; nccl with CUDA and gloo without when not given.
            ``nccl`` becomes gloo where there is no CUDA.
        timeout_s: How long to wait for a slow process, at the start and in each collective.
    """
    process = read_environment(launcher)
    if torch.cuda.is_available():
        _take_device(process)
    if launcher == "none" or dist.is_initialized():
        return process
    os.environ.update(
        RANK=str(process.rank), WORLD_SIZE=str(process.world_size),
        LOCAL_RANK=str(process.local_rank), MASTER_ADDR=process.address,
        MASTER_PORT=str(process.port),
    )  # fmt: skip
    if not torch.cuda.is_available() or backend is None:
        backend = "nccl" if torch.cuda.is_available() else "gloo"
    timeout = timedelta(seconds=timeout_s or DEFAULT_TIMEOUT_S)
    group: Any = dist
    try:
        store, _, size = next(
            group.rendezvous("env://", process.rank, process.world_size, timeout=timeout)
        )
        store.set_timeout(timeout)
        store = group.PrefixStore(attempt(process), store)
        process = replace(process, rank=_rank_by_node(process, store))
        os.environ["RANK"] = str(process.rank)
        if torch.cuda.is_available():
            _refuse_a_shared_gpu(process, store)
        dist.init_process_group(
            backend, store=store, rank=process.rank, world_size=size, timeout=timeout,
            device_id=device() if backend == "nccl" else None,
        )  # fmt: skip
        atexit.unregister(_leave_at_exit)
        atexit.register(_leave_at_exit)
    except RuntimeError as error:
        raise LostProcessError(
            f"rank {process.rank} of {process.world_size} on {socket.gethostname()}: the processes "
            f"did not all meet at {process.address}:{process.port} within "
            f"{timeout.total_seconds():.0f} s; look whether all of them were started, and whether "
            f"this address can be reached from every node ({str(error).splitlines()[0]})"
        ) from error
    return process


def _rank_by_node(process: Process, store: Any) -> int:
    """Number the processes by the NODE_RANK of their nodes, where torchrun ran on several.

    torchrun numbers nodes by their names, so that rank 0, which writes the files, would be on
    another node than the one that was given NODE_RANK=0. Every node says its number, or that it
    was given none, so that all count alike.
    """
    nodes, group = int(os.environ.get("GROUP_WORLD_SIZE", "1")), os.environ.get("GROUP_RANK")
    if nodes == 1 or group is None:
        return process.rank
    if process.local_rank == 0:
        own = (os.environ.get("NODE_RANK") or group, group, os.environ["LOCAL_WORLD_SIZE"])
        store.set(f"node_{group}", " ".join(own))
    said = store.multi_get([f"node_{number}" for number in range(nodes)])
    order = sorted(tuple(int(word) for word in text.decode().split()) for text in said)
    before = [size for _, number, size in order[: [n for _, n, _ in order].index(int(group))]]
    return sum(before) + process.local_rank


def attempt(process: Process) -> str:
    """Name this start, so that after a restart no address of the one before is read.

    torchrun keeps one store over restarts. Its count of them is the same everywhere on one node
    only; on several nodes tools/dist_train.sh asks for a new store each time instead.
    """
    one_node = os.environ.get("LOCAL_WORLD_SIZE") == str(process.world_size)
    return f"attempt_{restart_count() if one_node else 0}"


class LostProcessError(RunError, RuntimeError):
    """Another process of this run cannot be reached any more."""


_LOST = re.compile(
    r"timed out|timeout|connection (closed|reset|refused)|broken pipe|no route to host|"
    r"network is unreachable|(read|write) error|socket|remote process exited",
    re.IGNORECASE,
)
"""What gloo, NCCL and the store say about a process that does not answer."""


def lost(error: RuntimeError, where: str) -> LostProcessError | None:
    """Say in one sentence that another process cannot be reached.

    Args:
        error: What a collective raised.
        where: What this process was doing.

    Returns:
        The error to raise instead; None where ``error`` has another cause.
    """
    text = str(error)
    from_network = isinstance(error, dist.DistError) or "gloo" in text
    if not (dist.is_initialized() and from_network and _LOST.search(text)):
        return None
    address = re.search(r"\[([0-9a-fA-F.:]+)\]:\d+", text.partition("gloo/")[2])
    waited = re.search(r"[Tt]imed out waiting (\d+) ?ms", text)
    peer = f"the process at {address[1]}" if address else "another process"
    how = f" within {int(waited[1]) / 1000:.0f} s" if waited else ""
    return LostProcessError(
        f"rank {rank()} of {world_size()} on {socket.gethostname()}, {where}: {peer} cannot be "
        f"reached{how}; it has ended, hangs, or the network between the nodes is down: see the "
        "output of the other processes"
    )


def time_of_start() -> str:
    """Return the time of rank 0's clock, the same on all processes, as names of files hold it."""
    now = broadcast(torch.tensor(time.time(), dtype=torch.float64)).item()
    return time.strftime("%Y%m%d_%H%M%S", time.localtime(now))


def stop() -> None:
    """Leave the process group, if there is one, and end its threads.

    They end with the group's last owner, and models that are wrapped own it, too; such a model can
    be read, but no longer trained. A thread of gloo that is left may still hold a tensor of a
    collective; where it lets go of it while the interpreter ends, it aborts the process.
    """
    if not dist.is_initialized():
        return
    for model in _wrapped_models():
        model.reducer = model.logger = model.process_group = None
    dist.destroy_process_group()


def _leave_at_exit() -> None:
    """Stop at the end of a process that has not: of a user's own script, or after an error.

    What is left of a collective may wait for a process that is gone; the time for that is limited.
    """
    if dist.is_initialized() and dist.get_backend() == "gloo":
        faulthandler.dump_traceback_later(_LEAVING_S, exit=True, file=2)
        stop()
        faulthandler.cancel_dump_traceback_later()


def _wrapped_models() -> list[Any]:
    """Return all of this process, whoever wrapped them."""
    return [one for one in gc.get_objects() if issubclass(type(one), DistributedDataParallel)]


def _take_device(process: Process) -> None:
    count = torch.cuda.device_count()
    index = 0 if count == 1 else process.local_rank  # a launcher may show each process its own
    if index >= count:
        raise UserError(
            f"process {process.local_rank} of this node has no GPU: {count} visible; start at most "
            f"{count} processes per node or check CUDA_VISIBLE_DEVICES"
        )
    torch.cuda.set_device(index)


def _refuse_a_shared_gpu(process: Process, store: Any) -> None:
    """Stop when two processes were given one GPU, where NCCL would hang or fail.

    Raises:
        UserError: It names both.
    """
    facts = torch.cuda.get_device_properties(device())
    own = f"{socket.gethostname()} {getattr(facts, 'uuid', '')}"
    if not hasattr(facts, "uuid"):  # before PyTorch 2.5
        own += f" {os.environ.get('CUDA_VISIBLE_DEVICES', '')} {torch.cuda.current_device()}"
        if "SLURM_PROCID" in os.environ and torch.cuda.device_count() == 1:
            own += f" {process.rank}"  # --gpus-per-task=1: each task calls its own GPU number 0
    store.set(f"gpu_{process.rank}", own)
    gpus = store.multi_get([f"gpu_{other}" for other in range(process.world_size)])
    for other, gpu in enumerate(gpus):
        if other != process.rank and gpu.decode() == own:
            raise UserError(
                f"processes {process.rank} and {other} were given the same GPU; start one process "
                "for each GPU, or let each see its own by CUDA_VISIBLE_DEVICES"
            )


def device() -> torch.device:
    """Return the device that this process computes on."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def rank() -> int:
    """Return this process's number, 0 where there is only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def processes_here() -> int:
    """Return the number of processes on this node."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


def is_main() -> bool:
    """Return whether this process writes files and talks to the user."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    sum_over_ranks(torch.zeros(1))


def _on_device(tensor: Tensor) -> Tensor:
    return tensor.to(device()) if dist.get_backend() == "nccl" else tensor.cpu()


def _reduce(tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    if world_size() == 1:
        return tensor.clone()
    result = _on_device(tensor).clone()
    dist.all_reduce(result, operation)
    return result.to(tensor.device)


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Sum a tensor of any shape over all processes."""
    return _reduce(tensor, dist.ReduceOp.SUM)


def max_over_ranks(tensor: Tensor) -> Tensor:
    """Take the largest value over all processes, entry by entry."""
    return _reduce(tensor, dist.ReduceOp.MAX)


def any_of(flag: bool) -> bool:
    """Return whether the flag is set on any process; waits for all of them."""
    return bool(max_over_ranks(torch.tensor([int(flag)])).item())


def broadcast(tensor: Tensor, source: int = 0) -> Tensor:
    """Return the tensor of process ``source``; all must bring the same shape and type."""
    if world_size() == 1:
        return tensor.clone()
    result = _on_device(tensor).clone()
    dist.broadcast(result, source)
    return result.to(tensor.device)


def broadcast_text(text: str, source: int = 0) -> str:
    """Return the text of process ``source``, sent as bytes and never pickled."""
    data = torch.tensor(list(text.encode()), dtype=torch.uint8)
    length = int(broadcast(torch.tensor([len(data)]), source).item())
    if rank() != source:
        data = torch.zeros(length, dtype=torch.uint8)
    return bytes(broadcast(data, source).tolist()).decode() if length else ""


def gather_text(text: str) -> list[str]:
    """Return the texts of all processes, in the order of their ranks; never pickled."""
    data = torch.tensor(list(text.encode()), dtype=torch.uint8)
    longest = int(max_over_ranks(torch.tensor([len(data)])).item())
    # one row each, so that a sum puts them side by side
    rows = torch.zeros(world_size(), longest + 1, dtype=torch.uint8)
    rows[rank(), : len(data)] = data
    return [bytes(row.tolist()).partition(b"\0")[0].decode() for row in sum_over_ranks(rows)]


def share_buffers(model: nn.Module) -> None:
    """Give every process the running statistics of process 0.

    Without SyncBatchNorm each process gathers its own; only those of process 0 are saved, so only
    those may be validated with.
    """
    if world_size() == 1:
        return
    for floating in (True, False):
        buffers = [b for b in model.buffers() if b.is_floating_point() == floating and b.numel()]
        if buffers:
            dtype = torch.float64 if floating else torch.int64
            flat = broadcast(torch.cat([buffer.flatten().to(dtype) for buffer in buffers]))
            parts = torch.split(flat, [buffer.numel() for buffer in buffers])
            for buffer, part in zip(buffers, parts, strict=True):
                buffer.copy_(part.view_as(buffer))


def share_state(model: nn.Module) -> None:
    """Give every process the parameters and buffers of process 0."""
    if world_size() > 1:
        for tensor in model.state_dict().values():
            tensor.copy_(broadcast(tensor))


def device_ids() -> list[int] | None:
    """Return the GPU of this process as DistributedDataParallel wants it; None on a CPU."""
    return [torch.cuda.current_device()] if torch.cuda.is_available() else None


def wrap(model: nn.Module, *, find_unused_parameters: bool = False) -> nn.Module:
    """Wrap a model so that gradients are averaged over processes, on CUDA or CPU."""
    # Gradients of 1x1 kernels from maps that lie channels last: other strides, same order in memory
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    wrapped: nn.Module = MMDistributedDataParallel(
        module=model,
        device_ids=device_ids(),
        broadcast_buffers=False,
        find_unused_parameters=find_unused_parameters,
        gradient_as_bucket_view=True,
    )
    return wrapped


def unwrap(model: nn.Module) -> nn.Module:
    """Return the network inside DistributedDataParallel or a test-time wrapper."""
    inner = getattr(model, "module", None)
    return unwrap(inner) if isinstance(inner, nn.Module) else model


@dataclass(frozen=True)
class Verdict:
    """What was agreed on in one iteration.

    Args:
        iteration: Which one, from 0.
        non_finite: A loss or gradient was not finite on some process.
        stop: Some process was asked to stop.
        save: The writing process wants to save once more.
    """

    iteration: int
    non_finite: bool
    stop: bool
    save: bool = False


class Agreement:
    """Collects this process's flags, reduces them with all others', and reads what was agreed.

    On CUDA the vector stays on the device, where a guarded optimizer step can use it, and the host
    reads it two iterations later, when its copy has long arrived: no iteration waits for the
    device. On the CPU it is read at once. Every process reads the entry of the same iteration, so
    all of them act in the same one.

    Args:
        device: Where the vector lives.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.lag = _LAG_ON_CUDA if device.type == "cuda" else 0
        self.stop_asked = self.save_asked = False
        self.reduced: Tensor | None = None
        self._pending: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()

    def ask_to_stop(self) -> None:
        """Ask all processes to stop; they agree on it in the next iteration."""
        self.stop_asked = True

    def ask_to_save(self) -> None:
        """Ask all processes for a save after the next iteration."""
        self.save_asked = True

    def reduce(self, non_finite: Tensor | None = None) -> Tensor:
        """Reduce the flags over all processes, at most once an iteration.

        Args:
            non_finite: Bool scalar on the device, whether this process saw a number that is not
                finite.

        Returns:
            The agreed vector (3,), float32 on the device: non-finite, stop, save.
        """
        if self.reduced is None:
            flags = torch.zeros(3, device=self.device)
            if self.stop_asked:
                flags[STOP].fill_(1.0)
            if self.save_asked:
                flags[SAVE].fill_(1.0)
                self.save_asked = False
            if non_finite is not None:
                flags[NON_FINITE] = non_finite.to(flags.dtype)
            self.reduced = max_over_ranks(flags)
        return self.reduced

    def close(self, iteration: int) -> list[Verdict]:
        """End an iteration and return what can be read by now.

        Args:
            iteration: Number of the iteration that ends, from 0.
        """
        vector = self.reduce()
        self.reduced = None
        if self.device.type == "cuda":
            host = torch.empty(3, pin_memory=True)
            host.copy_(vector, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
            self._pending.append((iteration, host, event))
        else:
            self._pending.append((iteration, vector, None))
        return self._read(self.lag)

    def drain(self) -> list[Verdict]:
        """Wait for all that has not been read yet; before something is saved."""
        return self._read(0)

    def _read(self, leave: int) -> list[Verdict]:
        verdicts = []
        while len(self._pending) > leave:
            iteration, vector, event = self._pending.popleft()
            if event is not None and not event.query():  # type: ignore[no-untyped-call]
                event.synchronize()
            verdicts.append(Verdict(iteration, *map(bool, vector.tolist())))
        return verdicts
