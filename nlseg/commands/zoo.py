"""The published models: list them, fetch their weights, check their scores.

    nlseg zoo list
    nlseg zoo get gcnet_r50-d8_4xb4-80k_ade20k-512x512
    nlseg zoo verify gcnet_r50-d8_4xb4-80k_ade20k-512x512 --data-root /data/ade
    nlseg zoo verify --all

verify takes or fetches the weights, checks their hash and names, checks the data (number of images,
digest of the labels), evaluates, and compares: up to 0.10 points of mIoU off is a pass. Each
verification leaves a receipt in work_dirs/zoo; --all goes on with the models that have none.

Exit code 0: done, all pass; 1: a score differs; 2: something to mend in the command, data or
weights; 3: weights or data are not here, and it is said what to put where.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nlseg.commands.arguments import plain_parser

if TYPE_CHECKING:
    from nlseg.zoo.catalogue import Zoo
    from nlseg.zoo.verification import Outcome, Task

FAILED, MENDED_BY_USER, MISSING = 1, 2, 3


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command's arguments."""
    parser = plain_parser(__doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="{list,get,verify}")
    listing = actions.add_parser("list", help="print the models", allow_abbrev=False)
    get = actions.add_parser("get", help="fetch weights and check their hash", allow_abbrev=False)
    verify = actions.add_parser("verify", help="evaluate and compare", allow_abbrev=False)
    for action in (get, verify):
        action.add_argument("names", nargs="*", metavar="NAME", help="models")
        action.add_argument("--all", action="store_true", help="all models")
    verify.add_argument("--data-root", metavar="DIR", help="folder of the data set")
    verify.add_argument("--checkpoint", metavar="FILE", help="weights, in place of the published")
    verify.add_argument("--tta", action="store_true", help="several scales and flips")
    verify.add_argument(
        "--limit", type=int, metavar="N", help="only N images: no verdict, and no row is filled"
    )
    verify.add_argument(
        "--out", type=Path, default=Path("work_dirs/zoo"), help="folder (default: work_dirs/zoo)"
    )
    for action in (listing, get, verify):
        action.add_argument("--zoo", metavar="FILE", help="another zoo.yml")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; without arguments, with those of the process."""
    args = build_parser().parse_args(arguments)

    from nlseg.errors import UserError, ending_at_the_user

    with ending_at_the_user():
        from nlseg.zoo.catalogue import read_zoo

        zoo = read_zoo(args.zoo)
        if args.action == "list":
            print(listed(zoo))
            return 0
        if bool(args.names) == args.all:
            raise UserError(f"nlseg zoo {args.action}: give names, or --all")
        return (get if args.action == "get" else verify)(args, zoo)


def listed(zoo: "Zoo") -> str:
    """Return the models with their figures and whether their weights are here."""
    from nlseg.table import format_table
    from nlseg.weights.downloads import cached_file

    rows = []
    for model in zoo.models.values():
        source = model.weights_source
        file = cached_file(source) if source.startswith("https://") else Path(source)
        here = "none" if not source else "here" if file.is_file() else "to fetch"
        nan = float("nan")
        figures = [nan if value is None else value for value in (model.miou, model.ms_flip)]
        rows.append([model.name, zoo.data[model.data].title, *figures, here])
    return format_table(["model", "data", "mIoU", "ms+flip", "weights"], rows)


def get(args: argparse.Namespace, zoo: "Zoo") -> int:
    """Fetch weights and print where they are."""
    from nlseg.errors import CheckpointError, UserError
    from nlseg.files import sha256_of
    from nlseg.weights.downloads import locate

    names = args.names or [name for name, model in zoo.models.items() if model.weights]
    for model in [zoo.find(name) for name in names]:
        if not model.weights:
            raise UserError(f"{model.name}: no weights are published")
        file = locate(model.weights_source)
        if not sha256_of(file).startswith(model.sha256):
            raise CheckpointError(
                f"{file}: is not the published file, whose SHA-256 begins {model.sha256}; delete "
                "it and it is fetched again"
            )
        print(file)
    return 0


def verify(args: argparse.Namespace, zoo: "Zoo") -> int:
    """Verify, print the table, and return the exit code."""
    from nlseg.errors import UserError
    from nlseg.table import format_table
    from nlseg.zoo.verification import HEADER, tasks_of

    if args.checkpoint and (args.all or len(args.names) > 1):
        raise UserError("--checkpoint: are the weights of one model; give its name alone")
    tasks = tasks_of(
        zoo, None if args.all else args.names, tta=args.tta, data_root=args.data_root,
        checkpoint=args.checkpoint, limit=args.limit, folder=args.out,
    )  # fmt: skip
    outcomes, wrong = [], []
    for number, task in enumerate(tasks, 1):
        print(f"[{number}/{len(tasks)}] {task.model.name}", flush=True)
        try:
            outcomes.append(outcome_of(task, go_on=args.all and args.limit is None))
        except UserError as error:
            if not args.all:
                raise
            print(f"error: {error}")
            wrong.append(task.model.name)
    print(format_table(HEADER, [outcome.row() for outcome in outcomes]))
    results = {outcome.result for outcome in outcomes}
    if wrong:
        print(f"not evaluated, see above: {', '.join(wrong)}")
    if "partial" in results:
        print("partial: a part of the images gives no verdict and fills no row")
    if "fail" in results:
        return FAILED
    return MENDED_BY_USER if wrong else MISSING if "missing" in results else 0


def outcome_of(task: "Task", *, go_on: bool) -> "Outcome":
    """Verify one model, or take what an earlier verification found; tell what differs."""
    from nlseg.zoo.verification import MissingError, Outcome, explain, finished, verify_model

    earlier = finished(task) if go_on else None
    try:
        outcome = earlier or verify_model(task, print)
    except MissingError as error:
        print(error)
        return Outcome(task.model.name, task.model.published(tta=task.tta), None)
    if outcome.receipt is not None:
        print(f"receipt{' of an earlier run' if earlier else ''}: {outcome.receipt.path}")
        if outcome.result == "fail":
            print(explain(task, outcome.receipt))
    return outcome
