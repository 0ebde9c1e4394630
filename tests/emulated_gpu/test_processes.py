"""Which card a process takes, and that two do not take one."""

import socket
from typing import Any

import pytest
import torch
from torch.distributed import HashStore

from nlseg.errors import ConfigError, UserError
from nlseg.run import processes
from nlseg.run.half import AmpOptimWrapper, check_half
from nlseg.run.processes import Process
from tests.emulated_gpu.card import CAPABILITY


def test_a_process_that_sees_one_card_takes_it_whatever_its_number() -> None:
    processes._take_device(Process(rank=3, world_size=4, local_rank=3))
    assert torch.cuda.current_device() == 0


def test_two_processes_on_one_card_are_refused() -> None:
    store = HashStore()
    processes._refuse_a_shared_gpu(Process(rank=0, world_size=1), store)
    with pytest.raises(UserError, match="processes 1 and 0 were given the same GPU"):
        processes._refuse_a_shared_gpu(Process(rank=1, world_size=2), store)


@pytest.mark.parametrize("backend", ["nccl", "gloo"])
def test_nccl_is_told_the_card_of_its_process(
    monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """All but NCCL itself, which is not emulated."""
    told: dict[str, Any] = {}
    monkeypatch.setattr(
        torch.distributed, "init_process_group",
        lambda backend, **options: told.update(options, backend=backend),
    )  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("MASTER_PORT", port)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    processes.start("pytorch", backend=backend, timeout_s=20)
    card = torch.device("cuda", 0) if backend == "nccl" else None
    assert (told["backend"], told["device_id"]) == (backend, card)


@pytest.mark.skipif(CAPABILITY >= (8, 0), reason="has kernels for bfloat16")
def test_bfloat16_is_refused_where_there_are_no_kernels() -> None:
    with pytest.raises(ConfigError, match="no GPU before Ampere has; use 'float16'"):
        check_half("bfloat16")
    weights = torch.nn.Linear(1, 1, device="cuda").parameters()
    with pytest.raises(ConfigError, match="use 'float16'"):
        AmpOptimWrapper(torch.optim.SGD(weights, lr=1), dtype="bfloat16")
