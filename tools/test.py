"""Test a network that a config file describes with the weights of a checkpoint.

Exit code 0: done; 1: the test failed; 2: something to mend in the command, config, data or weights.
"""

import argparse


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="weights: a file, https address or published name")
    parser.add_argument("--work-dir", help="folder for logs and scores")
    parser.add_argument("--out", metavar="DIR", help="write the predicted label maps here")
    parser.add_argument("--show-dir", metavar="DIR", help="write a picture of every image here")
    parser.add_argument("--tta", action="store_true", help="average over several scales and flips")
    parser.add_argument("--amp", action="store_true", help="predict in half precision")
    parser.add_argument(
        "--fast", action="store_true", help="turn on what is quick and safe on this hardware"
    )
    parser.add_argument(
        "--cfg-options", "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="settings to override; load_strict=False accepts weights that fit in part",
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

    command.run(lambda: test(args))


def test(args: argparse.Namespace) -> None:
    from nlseg.engine.command import evaluation_config
    from nlseg.engine.runner import Runner
    from nlseg.engine.training.fast import use_fast_testing

    cfg = evaluation_config(
        args.config,
        args.checkpoint,
        work_dir=args.work_dir,
        out=args.out,
        show_dir=args.show_dir,
        tta=args.tta,
        amp=args.amp,
        overrides=args.cfg_options,
        launcher=args.launcher,
    )
    if args.fast:
        use_fast_testing(cfg)
    Runner.build(cfg).test()


if __name__ == "__main__":
    main()
