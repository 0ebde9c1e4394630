import contextlib
import json
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from nlseg.errors import UserError
from nlseg.run import command, processes
from nlseg.run.checkpoint import SaveError
from nlseg.run.control import Preempted
from nlseg.run.logs import read_scalars
from tests.run.prepared import run_ranks

SCRIPT = "tests.run.rank_script"
WAYS_OUT: dict[str, BaseException | None] = {
    "end": None,
    "script": None,
    "save": SaveError("a.pth: cannot be written"),
    "signal": Preempted("SIGTERM"),
    "user": UserError("a: is wrong"),
    "bug": KeyError("a"),
}
"""How a command ends; 'script' is one of a user's own."""
pytestmark = pytest.mark.slow


def losses_in(output: str) -> torch.Tensor:
    (line,) = [line for line in output.splitlines() if line.startswith("LOSSES")]
    return torch.tensor([float(word) for word in line.split()[1:]], dtype=torch.float64)


def threads_in(output: str) -> str:
    """Return the threads at the end; one of gloo's that still ran would abort the process."""
    return next(line for line in output.splitlines() if line.startswith("THREADS"))


def test_collectives_over_gloo() -> None:
    run_ranks(2, "-m", SCRIPT, "collectives")


def test_synchronized_norms_are_those_of_the_joined_batch() -> None:
    run_ranks(2, "-m", SCRIPT, "norms")


def test_two_processes_train_as_one_with_the_joined_batch(tmp_path: Path) -> None:
    (alone,) = run_ranks(1, "-m", SCRIPT, "training", str(tmp_path / "one"), "none", "4")
    both = run_ranks(2, "-m", SCRIPT, "training", str(tmp_path / "two"), "pytorch", "2")
    for output in both:
        assert "gloo" not in threads_in(output)
    one = torch.load(tmp_path / "one" / "iter_4.pth", weights_only=True)
    two = torch.load(tmp_path / "two" / "iter_4.pth", weights_only=True)
    # The mean over ranks of a mean over equal parts is the mean over all.
    mean_loss = torch.stack([losses_in(output) for output in both]).mean(0)
    torch.testing.assert_close(mean_loss, losses_in(alone), rtol=1e-6, atol=0)
    for name, weight in one["state_dict"].items():
        # SGD's first momentum buffers are the gradients, so weights agree only if these do.
        torch.testing.assert_close(two["state_dict"][name], weight, rtol=1e-5, atol=1e-7)
    scores = [
        line["mIoU"] for line in read_scalars(tmp_path / "two/scalars.jsonl") if "mIoU" in line
    ]
    assert scores == [
        line["mIoU"] for line in read_scalars(tmp_path / "one/scalars.jsonl") if "mIoU" in line
    ]
    assert two["meta"]["world_size"] == 2


def test_script_that_says_nothing_at_its_end_leaves_no_threads(tmp_path: Path) -> None:
    for output in run_ranks(2, "-m", SCRIPT, "leaving", str(tmp_path)):
        assert "gloo" not in threads_in(output)


def test_end_does_not_wait_for_ever_for_a_process_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_LEAVING_S", 0.5)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_PORT", str(processes.free_port()))
    pids = [fork_rank(rank, tmp_path / "stacks.txt") for rank in (0, 1)]
    assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 1
    os.kill(pids[1], signal.SIGKILL)
    os.waitpid(pids[1], 0)
    assert "in stop" in (tmp_path / "stacks.txt").read_text()


def fork_rank(rank: int, output: Path) -> int:
    """Fork rank 0, which ends amid a collective, or rank 1, which hangs."""
    pid = os.fork()
    if pid == 0:
        try:
            with open(output if rank == 0 else os.devnull, "w") as file:
                os.dup2(file.fileno(), 2)
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
            processes.start("pytorch", timeout_s=60)
            processes.barrier()
            if rank == 1:
                time.sleep(60)
            dist.all_reduce(torch.ones(1), async_op=True)
            processes._leave_at_exit()
        finally:
            os._exit(3)
    return pid


def test_each_way_out_ends_the_threads_of_gloo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    ports = [processes.free_port() for _ in WAYS_OUT]
    files = [tmp_path / str(rank) for rank in (0, 1)]
    pids = [leave_by_each_way(rank, ports, files[rank]) for rank in (0, 1)]
    for pid, file in zip(pids, files, strict=True):
        os.waitpid(pid, 0)
        assert json.loads(file.read_text()) == dict.fromkeys(WAYS_OUT, 0)


def leave_by_each_way(rank: int, ports: list[int], file: Path) -> int:
    """Fork a process that trains a step and leaves in each way; it writes how many are left."""

    def main(error: BaseException | None) -> None:
        processes.start("pytorch", timeout_s=60)
        model = DistributedDataParallel(torch.nn.Linear(3, 3))
        model(torch.ones(2, 3)).sum().backward()
        if error is not None:
            raise error

    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            torch.set_num_threads(1)
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
            left = {}
            for port, (way, error) in zip(ports, WAYS_OUT.items(), strict=True):
                os.environ["MASTER_PORT"] = str(port)
                with contextlib.suppress(BaseException):
                    main(error) if way == "script" else command.run(partial(main, error))
                processes._leave_at_exit()  # as the interpreter does
                names = [comm.read_text() for comm in Path("/proc/self/task").glob("*/comm")]
                left[way] = sum("gloo" in name for name in names)
            file.write_text(json.dumps(left))
        finally:
            os._exit(0)
    return pid
