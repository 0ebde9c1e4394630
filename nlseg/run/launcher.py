"""Who started this process, and which of all it is: torchrun's, Slurm's and MPI's environment."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from nlseg.errors import UserError

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
