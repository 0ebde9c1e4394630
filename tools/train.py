"""Train a network that a config file describes.

Exit code 0: done; 1: training failed; 2: something to mend in the command, config or data;
143: stopped on request (SIGTERM, SIGINT, SIGUSR1, --max-time) after saving; start again with
--resume.
"""

import argparse


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file")
    parser.add_argument("--work-dir", help="folder for logs and checkpoints")
    parser.add_argument(
        "--resume", nargs="?", const=True, metavar="PATH",
        help="go on from the newest whole checkpoint of the work dir, or from PATH",
    )  # fmt: skip
    parser.add_argument("--amp", action="store_true", help="train in half precision")
    parser.add_argument(
        "--fast", action="store_true", help="turn on what is quick and safe on this hardware"
    )
    parser.add_argument(
        "--max-time", metavar="H:MM:SS", help="save and stop before this much time has passed"
    )
    parser.add_argument(
        "--cfg-options", "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="settings to override, such as lr=0.005 max_iters=20000",
    )  # fmt: skip
    parser.add_argument(
        "--allow-unknown-keys", action="store_true",
        help="accept top-level config keys that no part of a run reads",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true",
        help="build everything, take one step, say what the run needs and how long it takes",
    )  # fmt: skip
    parser.add_argument(
        "--auto-batch", action="store_true",
        help="use the largest batch that fits, and accumulate up to the batch of the config",
    )  # fmt: skip
    parser.add_argument(
        "--auto-scale-lr", action="store_true",
        help="scale the learning rate for another number of GPUs than the config is written for",
    )  # fmt: skip
    parser.add_argument(
        "--launcher", choices=("none", "pytorch", "slurm", "mpi"), default="none",
        help="who starts the processes",
    )  # fmt: skip
    parser.add_argument("--local-rank", "--local_rank", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    from nlseg.engine import command

    command.run(lambda: train(args))


def train(args: argparse.Namespace) -> None:
    from nlseg.engine.command import training_config
    from nlseg.engine.planning.auto_batch import enable_rate_scaling, fit_batch_size
    from nlseg.engine.planning.dry_run import dry_run, report
    from nlseg.engine.runner import Runner
    from nlseg.engine.training.fast import use_fast_training

    cfg = training_config(
        args.config,
        work_dir=args.work_dir,
        resume=args.resume,
        amp=args.amp,
        max_time=args.max_time,
        overrides=args.cfg_options,
        launcher=args.launcher,
        allow_unknown=args.allow_unknown_keys,
    )
    if args.fast:
        use_fast_training(cfg)
    if args.auto_scale_lr:
        enable_rate_scaling(cfg)
    if args.auto_batch:
        fit_batch_size(cfg)
    if args.dry_run:
        print(report(dry_run(cfg)))
        return
    Runner.build(cfg).train()


if __name__ == "__main__":
    main()
