"""Harm one of several processes that torchrun started."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from mmengine.hooks import Hook

from nlseg.registry import HOOKS
from nlseg.run.processes import restart_count
from tests.faults.forked import Outcome, hold_until_asked
from tests.faults.kills import ITERS, LAST, hard_config
from tests.run.prepared import end_ranks
from tests.run.real_processes import ROOT, environment
from tests.run.runs import assert_same, final

IMPORTS = {"imports": ["tests.run.toy", "tests.run.runs", "tests.faults.ranks"]}
LIMIT_S = 280


@HOOKS.register_module(force=True)
class HarmRank(Hook):
    """Send signals to single processes.

    Args:
        plan: For each fault the count of restarts, the rank, the iteration and the signal.
    """

    priority = "VERY_HIGH"

    def __init__(self, plan: list[list[int]]) -> None:
        self.plan = plan

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        for restart, rank, iteration, number in self.plan:
            if (restart, rank, iteration) == (restart_count(), runner.rank, runner.iter):
                os.kill(os.getpid(), number)


@HOOKS.register_module(force=True)
class Progress(Hook):
    """Write the iteration to a file, for whoever waits for it."""

    def after_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        if runner.rank == 0:
            Path(runner.work_dir, "progress").write_text(str(runner.iter + 1))


@HOOKS.register_module(force=True)
class Hold(Hook):
    """Let rank 0 wait after an iteration until it is asked to stop.

    Args:
        iteration: Which one, from 1.
    """

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def after_train_iter(self, runner: Any, *_: Any, **__: Any) -> None:
        if runner.rank == 0 and runner.iter + 1 == self.iteration:
            hold_until_asked(runner)


def write_config(folder: Path, **changes: Any) -> Path:
    """Write the config file of a hard run of two processes of 2 samples each."""
    folder.mkdir(parents=True, exist_ok=True)
    config = hard_config(folder / "work", **{"train_dataloader.batch_size": 2, **changes})
    config.custom_imports = IMPORTS
    path = folder / "config.py"
    config.dump(path)
    return path


def torchrun(config: Path, *arguments: str, restarts: int = 0, **env: str) -> subprocess.Popen[str]:
    """Start two processes through tools/dist_train.sh."""
    more = {"MAX_RESTARTS": str(restarts), "GRACE_S": "20", **env}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.Popen(
        ["bash", str(ROOT / "tools/dist_train.sh"), str(config), "2", *arguments],
        env=environment(PATH=path, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a job and return its exit code and output; kills what hangs."""
    try:
        output = process.communicate(timeout=LIMIT_S)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output = process.communicate()[0] + "\n(hung, was killed)"
    return process.returncode, output


def train(config: Path, *arguments: str) -> tuple[list[int], str]:
    """Train with two processes and no launcher; return their exit codes and what they said."""
    tool = str(ROOT / "tools/train.py")
    codes, outputs = end_ranks(2, tool, str(config), "--launcher", "pytorch", *arguments)
    return codes, "".join(outputs)


def undisturbed(folder: Path) -> Path:
    """Train once with two processes and return the run folder."""
    codes, output = train(write_config(folder))
    assert codes == [0, 0], output[-3000:]
    return folder / "work"


def lose_workers(folder: Path, reference: Path, times: int = 3) -> Outcome:
    """Kill one process after the other; torchrun starts all again each time."""
    outcome = Outcome("worker of torchrun killed", injected=times)
    gap = ITERS // (times + 1)
    plan = [[n, n % 2, gap * (n + 1), int(signal.SIGKILL)] for n in range(times)]
    config = write_config(folder, custom_hooks=[*_average(), {"type": "HarmRank", "plan": plan}])
    code, output = finish(torchrun(config, restarts=times))
    return _judge(outcome, [code], output, folder, reference)


def freeze_rank(folder: Path, reference: Path) -> Outcome:
    """Stop one process; the others' time limit ends the group and torchrun starts it again."""
    outcome = Outcome("rank frozen", injected=1)
    hooks = [*_average(), {"type": "HarmRank", "plan": [[0, 1, 10, int(signal.SIGSTOP)]]}]
    config = write_config(folder, custom_hooks=hooks, time_limits={"iteration": 10.0})
    process = torchrun(config, restarts=1)
    threading.Thread(target=_kill_what_cannot_end, args=(process,), daemon=True).start()
    code, output = finish(process)
    stacks = folder / "work/faults/stacks_rank_0.txt"
    if "iteration took longer than 10 s" not in output or not stacks.is_file():
        outcome.notes.append("no stacks were written")
        return outcome
    return _judge(outcome, [code], output, folder, reference)


def _kill_what_cannot_end(launcher: subprocess.Popen[str]) -> None:
    """Kill a stopped process that was asked to end, which torchrun does after 30 s of waiting."""
    while launcher.poll() is None:
        with suppress(psutil.Error, OSError):
            for process in psutil.Process(launcher.pid).children(recursive=True):
                status = Path(f"/proc/{process.pid}/status").read_text()
                pending = int(status.partition("ShdPnd:")[2].split()[0], 16)
                if "State:\tT" in status and pending >> (signal.SIGTERM - 1) & 1:
                    process.kill()
        time.sleep(0.1)


def ask_torchrun_to_stop(folder: Path, reference: Path, iteration: int, number: int) -> Outcome:
    """Send the launcher a signal at some iteration, and go on."""
    outcome = Outcome(f"{signal.Signals(number).name} to the launcher", injected=1)
    hooks = [*_average(), {"type": "Progress"}, {"type": "Hold", "iteration": iteration}]
    config = write_config(folder, custom_hooks=hooks)
    process = torchrun(config)
    end = time.monotonic() + LIMIT_S
    progress = folder / "work/progress"
    while time.monotonic() < end and process.poll() is None:
        if progress.is_file() and int(progress.read_text() or 0) >= iteration:
            break
        time.sleep(0.01)
    process.send_signal(number)
    code, output = finish(process)
    if code != 143:
        outcome.notes.append(f"exit code {code} instead of 143: {output[-500:]}")
        return outcome
    codes, output = train(config, "--resume")
    return _judge(outcome, codes, output, folder, reference)


def meet_nan(folder: Path, policy: str) -> tuple[list[int], str, list[dict[str, Any]]]:
    """Give rank 1 of 2 a sample that is not a number.

    Returns:
        Exit codes, output and the ranks' reports.
    """
    # iteration 6 takes samples 20..23, rank 1 the last two of them
    config = write_config(
        folder,
        **{"train_dataloader.dataset.poison": (22,), "non_finite": {"policy": policy, "limit": 1}},
    )
    codes, output = train(config)
    reports = sorted((folder / "work/faults").glob("non_finite_*.json"))
    return codes, output, [json.loads(path.read_text()) for path in reports]


def _average() -> list[dict[str, Any]]:
    return [{"type": "EMAHook", "momentum": 0.1}]


def _judge(
    outcome: Outcome, codes: list[int], output: str, folder: Path, reference: Path
) -> Outcome:
    try:
        assert not any(codes), f"exit codes {codes}: {output[-2000:]}"
        assert_same(final(reference, LAST), final(folder / "work", LAST))
        outcome.survived = outcome.injected
    except AssertionError as error:
        outcome.notes.append(str(error))
    return outcome


def nan_outcome(folder: Path, policy: str) -> Outcome:
    """Judge how two processes took a sample on rank 1 that is not a number."""
    outcome = Outcome(f"NaN on rank 1 of 2, policy {policy}", injected=1)
    codes, output, reports = meet_nan(folder, policy)
    name = "iter_3.pth" if policy == "stop" else LAST
    whole = all(w.isfinite().all() for w in final(folder / "work", name)["state_dict"].values())
    if codes == 2 * [1 if policy == "stop" else 0] and len(reports) == 2 and whole:
        outcome.survived = 1
    else:
        outcome.notes.append(f"exit codes {codes}: {output[-500:]}")
    return outcome
