"""A sweep as one array job of Slurm, and a job behind it that gathers the scores."""

import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from nlseg.compare.sweep import FINISHED, SweepRun
from nlseg.errors import UserError

_SIGNAL_S = 300
# Slurm signals the step shortly before the time is over; the training saves and leaves with 143,
# and its task goes back into the queue. The traps keep this script alive until then.
_ARRAY = """\
#!/usr/bin/env bash
set -uo pipefail
commands=(
{commands}
)
folders=(
{folders}
)
folder=${{folders[SLURM_ARRAY_TASK_ID]}}
[ -e "$folder/{finished}" ] && exit 0
trap : USR1 TERM
# shellcheck disable=SC2086 # the command is split into its words, which hold no quotes of their own
eval "srun --kill-on-bad-exit=1 ${{commands[SLURM_ARRAY_TASK_ID]}}" & step=$!
while :; do code=0; wait $step || code=$?; kill -0 $step 2>/dev/null || break; done
[ "$code" = 0 ] && touch "$folder/{finished}"
[ "$code" = 143 ] && scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
exit "$code"
"""


def submit(
    runs: Sequence[SweepRun], commands: Sequence[Sequence[str]], gather: Sequence[str], folder: Path
) -> tuple[str, str]:
    """Submit runs as one array job, and a job that starts when all of them have ended.

    What sbatch is told beside that stands in the environment: ``SBATCH_ARGS`` for the array, such
    as ``--gres=gpu:1 --time=4:00:00 --array=0-99%8``, and sbatch's own ``SBATCH_PARTITION``.

    Args:
        runs: What is to be trained, one task each.
        commands: The words that start each run.
        gather: The words that write the table of the sweep.
        folder: Folder of the sweep; script and output of the jobs go below it.

    Returns:
        Numbers of the array job and of the gathering one.

    Raises:
        UserError: There is no sbatch, or it refuses the job.
    """
    jobs = folder / "slurm"
    jobs.mkdir(parents=True, exist_ok=True)
    script = jobs / "array.sh"
    script.write_text(
        _ARRAY.format(
            commands="\n".join(shlex.quote(shlex.join(command)) for command in commands),
            folders="\n".join(shlex.quote(str(run.folder)) for run in runs),
            finished=FINISHED,
        )
    )
    array = _sbatch(
        f"--array=0-{len(runs) - 1}", f"--job-name=sweep-{folder.name}", "--requeue",
        "--open-mode=append", f"--signal=USR1@{_SIGNAL_S}", f"--output={jobs}/%a.txt",
        *shlex.split(os.environ.get("SBATCH_ARGS", "")), str(script),
    )  # fmt: skip
    table = _sbatch(
        f"--dependency=afterany:{array}", f"--job-name=gather-{folder.name}",
        f"--output={jobs}/table.txt", "--wrap", shlex.join(gather),
    )  # fmt: skip
    return array, table


def _sbatch(*words: str) -> str:
    """Run sbatch; returns the number of the job."""
    try:
        done = subprocess.run(
            ["sbatch", "--parsable", *words], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise UserError(
            "--slurm: there is no sbatch on PATH; give the command on a login node, or take "
            "--print, which prints one command a line"
        ) from None
    if done.returncode:
        raise UserError(f"--slurm: sbatch refuses: {done.stderr.strip()}")
    return done.stdout.strip().split(";")[0]
