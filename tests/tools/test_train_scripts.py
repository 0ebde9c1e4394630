"""The Slurm scripts with a Slurm of three small scripts, and what they ask it for."""

import os
import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """Make commands that write down how they were called; ``srun`` ends with $CODE."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "srun", "scontrol"):
        code = "exit ${CODE:-0}" if name == "srun" else "exit 0"
        (folder / name).write_text(f'#!/bin/bash\necho "{name} $@" >> "$CALLS"\n{code}\n')
        (folder / name).chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "CALLS": str(tmp_path / "calls"), "SLURM_JOB_ID": "77"}


def run(script: str, *arguments: str, env: dict[str, str]) -> tuple[int, list[str]]:
    result = subprocess.run(["bash", str(TOOLS / script), *arguments], env=env, capture_output=True)
    calls = Path(env["CALLS"])
    return result.returncode, calls.read_text().splitlines() if calls.exists() else []


def test_job_asks_for_an_early_signal_and_may_be_requeued(slurm: dict[str, str]) -> None:
    env = {**slurm, "GPUS": "8", "GPUS_PER_NODE": "4", "SIGNAL_S": "120"}
    code, calls = run("slurm_train.sh", "gpu", "name", "config.py", "--amp", env=env)
    assert code == 0
    (call,) = calls
    for part in ("--requeue", "--signal=USR1@120", "--ntasks=8", "--ntasks-per-node=4",
                 "--gres=gpu:4", "--partition=gpu", "config.py --amp"):  # fmt: skip
        assert part in call


@pytest.mark.parametrize(("code", "requeued"), [(143, True), (0, False), (1, False)])
def test_job_goes_back_into_the_queue_after_143_only(
    slurm: dict[str, str], code: int, requeued: bool
) -> None:
    env = {**slurm, "NLSEG_IN_JOB": str(TOOLS), "CODE": str(code)}
    left, calls = run("slurm_train.sh", "config.py", env=env)
    assert left == code
    assert ("scontrol requeue 77" in calls) is requeued
    assert "--resume" not in calls[0]


def test_arguments_for_srun_reach_it_in_the_job_too(slurm: dict[str, str]) -> None:
    env = {**slurm, "NLSEG_IN_JOB": str(TOOLS), "SRUN_ARGS": "--gpus-per-task=1 --mpi=none"}
    _, calls = run("slurm_train.sh", "config.py", env=env)
    assert "--gpus-per-task=1 --mpi=none python -u" in calls[0]


def test_requeued_job_resumes(slurm: dict[str, str]) -> None:
    env = {**slurm, "NLSEG_IN_JOB": str(TOOLS), "SLURM_RESTART_COUNT": "1"}
    _, calls = run("slurm_train.sh", "config.py", env=env)
    assert calls[0].endswith("--launcher slurm --resume")


def test_test_runs_through_srun(slurm: dict[str, str]) -> None:
    env = {**slurm, "GPUS": "2"}
    _, (call,) = run("slurm_test.sh", "gpu", "name", "config.py", "w.pth", "--tta", env=env)
    assert "--ntasks=2 --ntasks-per-node=2 --gres=gpu:2" in call
    assert call.endswith("config.py w.pth --tta --launcher slurm")


@pytest.mark.parametrize(
    "script", ["slurm_train.sh", "slurm_test.sh", "dist_train.sh", "dist_test.sh"]
)
def test_too_few_arguments_show_the_usage(slurm: dict[str, str], script: str) -> None:
    result = subprocess.run(
        ["bash", str(TOOLS / script)], env=slurm, capture_output=True, text=True
    )
    assert result.returncode == 2
    assert script in result.stderr
