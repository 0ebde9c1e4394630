r"""Train one config with several values, several times each, and compare the scores.

    nlseg sweep nonlocal_r18-d8_1xb4-20k_camvid-360x480 \
        --grid lr=0.01,0.005 model.decode_head.reduction=1,2 --repeat 3

Run folders are named by what they change. Starting the same sweep again goes on with the runs that
are not finished. With --slurm they are submitted as one array job, and a second job gathers the
scores behind it: SBATCH_ARGS="--gres=gpu:1 --time=4:00:00" nlseg sweep CONFIG --grid ... --slurm
With --print nothing is run: one command a line is printed for a cluster.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nlseg.commands.arguments import add_overrides, command_parser
from nlseg.errors import ending_at_the_user

if TYPE_CHECKING:
    from nlseg.compare.sweep import SweepRun

TRAIN = "-m nlseg train {config} --work-dir {folder} --resume"
PREEMPTED = 143


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command's arguments."""
    parser = command_parser(__doc__)
    parser.add_argument(
        "--grid", nargs="+", action="extend", default=[], metavar="KEY=V1,V2",
        help="values to try; all combinations are run",
    )  # fmt: skip
    parser.add_argument("--repeat", type=int, default=1, help="runs of each setting")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first repetition")
    add_overrides(parser, "for all runs")
    parser.add_argument("--out", type=Path, help="folder (default: work_dirs/sweeps/NAME)")
    parser.add_argument("--metric", default="mIoU", help="validation score to compare")
    parser.add_argument("--best", action="store_true", help="compare best scores, not the last")
    parser.add_argument("--print", action="store_true", help="print the commands, run nothing")
    parser.add_argument("--slurm", action="store_true", help="submit the runs as an array job")
    parser.add_argument("--table", action="store_true", help="only show what there is")
    parser.add_argument(
        "--command", default=f"{sys.executable} {TRAIN}",
        help="how a run is started; {config} and {folder} are filled in",
    )  # fmt: skip
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; without arguments, with those of the process."""
    args = build_parser().parse_args(arguments)
    with ending_at_the_user():
        if args.slurm:
            return submit_sweep(args, sys.argv[1:] if arguments is None else arguments)
        return run_sweep(args)


def plan_sweep(args: argparse.Namespace) -> tuple[list["SweepRun"], Path]:
    """Write the config of each run; returns the runs and the folder of the sweep."""
    from nlseg.compare import sweep
    from nlseg.config.published import find_config

    config = find_config(args.config)
    folder = args.out or Path("work_dirs/sweeps") / config.stem
    seeds = range(args.first_seed, args.first_seed + args.repeat)
    runs = sweep.plan(sweep.parse_grid(args.grid), seeds, folder)
    for run in runs:
        sweep.write_config(config, run, args.overrides)
    return runs, folder


def submit_sweep(args: argparse.Namespace, words: Sequence[str]) -> int:
    """Submit what is not finished yet to Slurm; returns the exit code."""
    from nlseg.compare.slurm_array import submit

    runs, folder = plan_sweep(args)
    waiting = [run for run in runs if not run.is_finished]
    if not waiting:
        print("all runs are finished; --table shows them")
        return 0
    commands = [command_of(args.command, run.config, run.folder) for run in waiting]
    others = [word for word in words if word != "--slurm"]
    gather = [sys.executable, "-m", "nlseg", "sweep", *others, "--table"]
    array, table = submit(waiting, commands, gather, folder)
    print(f"array job {array}: {len(waiting)} runs, output in {folder / 'slurm'}")
    print(f"job {table} writes {folder / 'scores.csv'} when all have ended; --table does it before")
    return 0


def run_sweep(args: argparse.Namespace) -> int:
    """Train what is not finished yet, and write the table; returns the exit code."""
    from nlseg.compare import sweep, sweep_scores

    runs, folder = plan_sweep(args)
    waiting = [run for run in runs if not run.is_finished]
    if args.print:
        for run in waiting:
            done = shlex.quote(str(run.folder / sweep.FINISHED))
            print(f"{shlex.join(command_of(args.command, run.config, run.folder))} && touch {done}")
        return 0
    failed = 0
    for number, run in enumerate(() if args.table else waiting, 1):
        print(f"[{number}/{len(waiting)}] {run.folder.name}", flush=True)
        command = command_of(args.command, run.config, run.folder)
        code = subprocess.run(command, check=False).returncode
        if code == PREEMPTED:
            return code
        failed += code != 0
        if code == 0:
            (run.folder / sweep.FINISHED).touch()
    rows = sweep_scores.summarize(runs, args.metric, best=args.best)
    print(sweep_scores.as_table(rows, args.metric))
    sweep_scores.write_csv(rows, folder / "scores.csv")
    sweep_scores.plot(rows, args.metric, folder / "scores.png")
    print(f"{folder / 'scores.csv'}\n{folder / 'scores.png'}")
    return 1 if failed else 0


def command_of(template: str, config: Path, folder: Path) -> list[str]:
    """Return the words of the command that starts one run."""
    names = {"{config}": str(config), "{folder}": str(folder)}
    return [names.get(word, word) for word in shlex.split(template)]
