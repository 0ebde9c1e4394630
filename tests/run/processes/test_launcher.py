from types import SimpleNamespace

import pytest
import torch
from torch.distributed import HashStore

from nlseg.errors import UserError
from nlseg.run import processes
from nlseg.run.processes import Process, first_host, read_environment, slurm_port
from tests.cases import each_case


def test_torchrun_environment_is_read() -> None:
    env = {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "a",
        "MASTER_PORT": "7",
    }
    assert read_environment("pytorch", env) == Process(5, 8, 1, "a", 7)


def test_slurm_environment_is_read_without_scontrol() -> None:
    env = {
        "SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1",
        "SLURM_NODELIST": "gpu[03-05,9]", "SLURM_JOB_ID": "1000",
    }  # fmt: skip
    assert read_environment("slurm", env) == Process(3, 4, 1, "gpu03", 15000 + 17000)


def test_address_and_port_from_the_environment_win_under_slurm() -> None:
    env = {
        "SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0", "SLURM_NODELIST": "n1",
        "MASTER_ADDR": "head", "MASTER_PORT": "1234",
    }  # fmt: skip
    process = read_environment("slurm", env)
    assert (process.address, process.port) == ("head", 1234)


def test_open_mpi_and_mpich_environments_are_read() -> None:
    names = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")
    env = {**dict(zip(names, "241", strict=True)), "MASTER_ADDR": "h"}
    assert read_environment("mpi", env) == Process(2, 4, 1, "h")
    env = {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "0", "MASTER_ADDR": "h"}
    assert read_environment("mpi", env).world_size == 2


@each_case(
    "nodes, host",
    [
        ("gpu[03-05,9],login1", "gpu03"), ("n1,n2", "n1"), ("host", "host"), ("a[7]", "a7"),
        ("node[1-2]-ib", "node1-ib"),
    ],
)  # fmt: skip
def test_first_host_of_a_slurm_list(nodes: str, host: str) -> None:
    assert first_host(nodes) == host


def test_two_jobs_get_two_ports() -> None:
    ports = {slurm_port({"SLURM_JOB_ID": str(job)}) for job in range(500, 600)}
    assert len(ports) == 100
    assert all(1024 < port < 65536 for port in ports)


def test_missing_variable_is_named() -> None:
    with pytest.raises(UserError, match="no RANK"):
        read_environment("pytorch", {})
    with pytest.raises(UserError, match="unknown; choose from none, pytorch"):
        read_environment("torch", {})


def test_one_visible_gpu_a_task_is_not_taken_for_a_shared_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # what PyTorch before 2.5 sees under --gpus-per-task=1: every task has a GPU number 0
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace())
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    store = HashStore()
    first, second = Process(rank=0, world_size=1), Process(rank=1, world_size=2)
    processes._refuse_a_shared_gpu(first, store)
    with pytest.raises(UserError, match="the same GPU"):
        processes._refuse_a_shared_gpu(second, store)
    monkeypatch.setenv("SLURM_PROCID", "0")
    processes._refuse_a_shared_gpu(first, store)
    processes._refuse_a_shared_gpu(second, store)


def test_ranks_follow_the_numbers_given_to_the_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    store = HashStore()
    # torchrun's order of the nodes, their NODE_RANK and how many processes each has
    for group, (given, size) in enumerate([("2", 1), ("0", 2), ("1", 3)]):
        store.set(f"node_{group}", f"{given} {group} {size}")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "3")
    places = {}
    for group, (given, size) in enumerate([("2", 1), ("0", 2), ("1", 3)]):
        monkeypatch.setenv("GROUP_RANK", str(group))
        monkeypatch.setenv("NODE_RANK", given)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(size))
        for local in range(size):
            process = Process(rank=99, world_size=6, local_rank=local)
            places[given, local] = processes._rank_by_node(process, store)
    assert places == {
        ("0", 0): 0, ("0", 1): 1, ("1", 0): 2, ("1", 1): 3, ("1", 2): 4, ("2", 0): 5,
    }  # fmt: skip


def test_a_node_without_number_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NODE_RANK", raising=False)
    monkeypatch.delenv("GROUP_RANK", raising=False)
    assert processes._rank_by_node(Process(rank=3, world_size=4), HashStore()) == 3


@pytest.mark.parametrize(
    ("text", "peer"),
    [
        ("[gloo/transport/tcp/pair.cc:1] Read error [10.0.0.2]:99: Connection reset by peer",
         "the process at 10.0.0.2 cannot be reached;"),
        ("[gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 15000ms for recv operation",
         "another process cannot be reached within 15 s;"),
        ("[gloo/types.h:1] op.preamble.length <= op.nbytes. 8 vs 4", None),  # not a lost process
        ("The size of tensor a (3) must match the size of tensor b (4)", None),
    ],
)  # fmt: skip
def test_errors_of_the_network_name_the_lost_process(
    text: str, peer: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(processes, "rank", lambda: 1)
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    lost = processes.lost(RuntimeError(text), "iteration 4")
    assert (lost is None) == (peer is None)
    if peer:
        assert peer in str(lost)
        assert "rank 1 of 2" in str(lost)
        assert "iteration 4" in str(lost)
