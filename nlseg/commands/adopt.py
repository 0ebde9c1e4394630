"""Go on here with a run of mmsegmentation: its folder becomes one of ours.

    nlseg adopt work_dirs/gcnet_r50 --out work_dirs/gcnet_r50_here
    nlseg train work_dirs/gcnet_r50_here/gcnet_r50.py --work-dir work_dirs/gcnet_r50_here --resume

Reads what mmengine 0.10 writes: the dumped config, the newest checkpoint with its optimizer, and
the curves of all starts. The old folder stays as it is. A table says what is equal, what differs,
and why.
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nlseg.commands.arguments import add_overrides, plain_parser

if TYPE_CHECKING:
    from nlseg.adopt import Adopted


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command's arguments."""
    parser = plain_parser(__doc__)
    parser.add_argument("folder", type=Path, help="run folder of mmsegmentation 1.x")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="new run folder (default: FOLDER_nlseg beside it)"
    )
    parser.add_argument("--config", type=Path, help="config, where the folder holds several")
    parser.add_argument(
        "--checkpoint", type=Path, help="default: the one that the folder points to"
    )
    parser.add_argument(
        "--verify", action="store_true",
        help="evaluate the old and the new checkpoint, and compare with what was recorded",
    )  # fmt: skip
    add_overrides(parser, "for --verify, such as data_root=/data")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; without arguments, with those of the process."""
    args = build_parser().parse_args(arguments)

    from nlseg.run import command

    command.run(lambda: adopt(args))


def adopt(args: argparse.Namespace) -> None:
    """Adopt the folder, print the comparison and what to call next."""
    from nlseg.adopt import adopt

    folder = args.folder.resolve()
    target = args.out or folder.with_name(f"{folder.name}_nlseg")
    adopted = adopt(args.folder, target, config=args.config, checkpoint=args.checkpoint)
    print(adopted.table())
    if args.verify:
        print("\n" + verify(args, adopted))
    words = ["nlseg", "train", str(adopted.config), "--work-dir", str(target), "--resume"]
    print(f"\n{shlex.join(words)}")


def verify(args: argparse.Namespace, adopted: "Adopted") -> str:
    """Evaluate both checkpoints, and lay their scores beside the recorded ones.

    Raises:
        UserError: The adopted checkpoint scores otherwise than the one that it was made of.
    """
    from nlseg.errors import UserError
    from nlseg.run.command import evaluation_config
    from nlseg.run.runner import Runner
    from nlseg.table import format_table

    scores = []
    for name, file in (("before", adopted.source), ("after", adopted.checkpoint)):
        cfg = evaluation_config(
            str(adopted.config), str(file), overrides=args.overrides, allow_unknown=True,
            work_dir=str(adopted.config.parent / "verify" / name),
        )  # fmt: skip
        cfg.experiment_name = f"verify_{name}"
        scores.append(Runner.build(cfg).test())
    before, after = scores
    rows = [
        (key, adopted.scores.get(key, float("nan")), float(value), float(after[key]))
        for key, value in before.items()
    ]
    text = format_table(("score", "recorded", "before", "after"), rows)
    if any(before[key] != after[key] for key in before):
        raise UserError(f"{adopted.checkpoint}: scores otherwise than {adopted.source}\n{text}")
    return text
