"""Train a network that a config file describes.

Exit code 0: done; 1: training failed; 2: something to mend in the command, config or data;
143: stopped on request (SIGTERM, SIGINT, SIGUSR1, SIGHUP, --max-time) after saving; start again
with --resume.
"""

import argparse
from collections.abc import Sequence

from nlseg.commands.arguments import add_config_options, add_run_arguments, command_parser
from nlseg.files import open_standard_streams


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command's arguments."""
    parser = command_parser(__doc__)
    add_run_arguments(parser)
    add_config_options(parser, "such as lr=0.005 max_iters=20000")
    parser.add_argument(
        "--resume", nargs="?", const=True, metavar="PATH",
        help="go on from the newest whole checkpoint of the work dir, or from PATH",
    )  # fmt: skip
    parser.add_argument(
        "--max-time", metavar="H:MM:SS", help="save and stop before this much time has passed"
    )
    parser.add_argument(
        "--dry-run", action="store_true",
        help="build everything, take one step, say what the run needs and how long it takes",
    )  # fmt: skip
    parser.add_argument(
        "--auto-batch", action="store_true",
        help="use the largest batch that fits, and accumulate up to the batch of the config",
    )  # fmt: skip
    parser.add_argument(
        "--graphs", action="store_true",
        help="--fast, and compile and replay CUDA graphs; for crops of one size",
    )  # fmt: skip
    parser.add_argument(
        "--auto-scale-lr", action="store_true",
        help="scale the learning rate for another number of GPUs than the config is written for",
    )  # fmt: skip
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; without arguments, with those of the process."""
    open_standard_streams()
    args = build_parser().parse_args(arguments)

    from nlseg.run import command

    command.run(lambda: train(args))


def train(args: argparse.Namespace) -> None:
    """Train, or say what training would need."""
    from nlseg.plan.auto_batch import enable_rate_scaling, fit_batch_size
    from nlseg.plan.dry_run import dry_run, report
    from nlseg.run import processes
    from nlseg.run.command import training_config
    from nlseg.run.fast import use_fast_training
    from nlseg.run.runner import Runner

    with processes.one_voice(args.launcher):
        cfg = training_config(
            args.config,
            work_dir=args.work_dir,
            resume=args.resume,
            amp=args.amp,
            max_time=args.max_time,
            overrides=args.overrides,
            launcher=args.launcher,
            allow_unknown=args.allow_unknown_keys,
        )
    if args.fast or args.graphs:
        use_fast_training(cfg, graphs=args.graphs)
    if args.auto_scale_lr:
        enable_rate_scaling(cfg)
    if args.auto_batch:
        fit_batch_size(cfg)
    if args.dry_run:
        print(report(dry_run(cfg, progress=True)))
        return
    with processes.one_voice(args.launcher):
        runner = Runner.build(cfg)
    runner.train()
