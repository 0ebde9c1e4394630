"""Test a network that a config file describes with the weights of a checkpoint.

Scores go to the log; receipt.json beside it holds what they rest on, see nlseg verify.
Exit code 0: done; 1: the test failed; 2: something to mend in the command, config, data or weights.
"""

import argparse
from collections.abc import Sequence

from nlseg.commands.arguments import (
    add_config_options,
    add_run_arguments,
    command_parser,
    refuse_option,
)
from nlseg.files import open_standard_streams


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command's arguments."""
    parser = command_parser(__doc__)
    parser.add_argument("checkpoint", help="weights: a file, https address or published name")
    parser.add_argument("--out", metavar="DIR", help="write the predicted label maps here")
    parser.add_argument("--show-dir", metavar="DIR", help="write a picture of every image here")
    parser.add_argument(
        "--report", action="store_true", help="write report.html: scores, and where the points went"
    )
    parser.add_argument("--tta", action="store_true", help="average over several scales and flips")
    for option in ("--show", "--wait-time"):
        refuse_option(parser, option, "no window is opened; --show-dir DIR writes the pictures")
    add_run_arguments(parser)
    add_config_options(parser, "such as load_strict=False, which accepts weights that fit in part")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; without arguments, with those of the process."""
    open_standard_streams()
    args = build_parser().parse_args(arguments)

    from nlseg.run import command

    command.run(lambda: test(args))


def test(args: argparse.Namespace) -> None:
    """Test, and write what was asked for."""
    from nlseg.run import processes
    from nlseg.run.command import evaluation_config
    from nlseg.run.fast import use_fast_testing
    from nlseg.run.runner import Runner

    with processes.one_voice(args.launcher):
        cfg = evaluation_config(
            args.config,
            args.checkpoint,
            work_dir=args.work_dir,
            out=args.out,
            show_dir=args.show_dir,
            tta=args.tta,
            amp=args.amp,
            overrides=args.overrides,
            launcher=args.launcher,
            allow_unknown=args.allow_unknown_keys,
        )
    hooks = cfg.setdefault("default_hooks", {})
    hooks.setdefault("receipt", {"type": "ReceiptHook"})
    if args.report:
        hooks["report"] = {"type": "ReportHook"}
    if args.fast:
        use_fast_testing(cfg)
    with processes.one_voice(args.launcher):
        runner = Runner.build(cfg)
    runner.test()
    if processes.is_main():
        folders = {"predictions": args.out, "pictures": args.show_dir}
        for name, folder in folders.items():
            if folder is not None:
                print(f"{name}: {folder}")
