import pytest

from nlseg.errors import UserError
from nlseg.run.processes import Process, first_host, read_environment, slurm_port


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


@pytest.mark.parametrize(
    ("nodes", "host"),
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
