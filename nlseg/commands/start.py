"""Images and masks in, a tested model out, each choice explained.

    nlseg start FOLDER                 # look, plan, ask, train, test, report: 15 minutes
    nlseg start FOLDER --hours 3 --yes
    nlseg start FOLDER --plan-only     # write my_data.py, and no more

Finds images and masks in two folders or one, nested, by suffix or list file, in the layout of VOC
or Cityscapes, or in an export of COCO, LabelMe or CVAT. What can be read in two ways is asked, or
refused with the option that says it. Called again, it goes on where it stopped.

Exit code 0: done, or planned; 1: training or test failed; 2: something to mend in the folder or the
command; 143: stopped on request after saving; the same command goes on.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nlseg.commands.arguments import plain_parser
from nlseg.files import open_standard_streams

if TYPE_CHECKING:
    from nlseg.start.planning import Plan
    from nlseg.start.readings import Unclear
    from nlseg.start.request import Request

MINUTES = 15.0


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command's arguments."""
    parser = plain_parser(__doc__)
    parser.add_argument("folder", type=Path, help="images and masks, or the export of a tool")
    parser.add_argument(
        "--out", type=Path, default=Path("my_data.py"), metavar="FILE",
        help="config to write; lists go to FILE_files beside it (my_data.py)",
    )  # fmt: skip
    parser.add_argument(
        "--work-dir", metavar="DIR", help="run folder (work_dirs/<name of the config>)"
    )
    parser.add_argument("--yes", action="store_true", help="train without asking")
    parser.add_argument("--plan-only", action="store_true", help="write the config, and no more")
    time = parser.add_argument_group("time for everything").add_mutually_exclusive_group()
    time.add_argument("--hours", type=float, metavar="H", help="hours")
    time.add_argument("--minutes", type=float, metavar="M", help=f"minutes ({MINUTES:g})")
    where = parser.add_argument_group("where files are, if it is not clear")
    where.add_argument(
        "--images", metavar="DIR", help="folder of the images, or the name of several"
    )
    where.add_argument("--masks", metavar="DIR", help="folder of the masks, or the name of several")
    where.add_argument("--image-suffix", metavar="END", help="end of the names of images")
    where.add_argument("--mask-suffix", metavar="END", help="end of the names of masks")
    where.add_argument(
        "--format",
        choices=("masks", "class-masks", "object-masks", "coco", "labelme", "cvat"),
        help="what holds the labels; class-masks: masks of one class each; object-masks: of one "
        "object each, all of one class",
    )
    where.add_argument(
        "--test", type=float, default=0.2, metavar="SHARE",
        help="share of the images that test, where no split is given (0.2)",
    )  # fmt: skip
    values = parser.add_argument_group("what values mean, if it is not clear; V is 255 or 255,0,0")
    values.add_argument("--classes", metavar="NAMES", help="a file, or names with commas between")
    values.add_argument("--ignore", action="append", default=[], metavar="V", help="does not count")
    values.add_argument("--keep", action="append", default=[], metavar="V", help="is a class")
    values.add_argument("--background", metavar="V", help="is a class, called background")
    values.add_argument(
        "--binary", type=float, metavar="LEVEL",
        help="two classes: below LEVEL is background, the rest the thing; masks saved with loss: "
        "128, masks that number objects: 1",
    )  # fmt: skip
    values.add_argument(
        "--unlabelled", type=int, choices=(0, 255), default=0,
        help="exports: what nobody labelled is class 0, background (default), or 255, ignored",
    )  # fmt: skip
    parser.add_argument(
        "--from-scratch", action="store_true", help="do not look for published weights"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the training (0)")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; without arguments, with those of the process."""
    open_standard_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    args = build_parser().parse_args(words)

    from nlseg.run import command

    command.run(lambda: start(args, words))


def start(args: argparse.Namespace, words: Sequence[str]) -> None:
    """Plan, ask, train, test."""
    plan = planned(args, words)
    print(f"{plan.text}\n\n{plan.config}: {'written' if plan.is_new else 'as planned before'}")
    if args.plan_only:
        print(f"go on with: {go_on(words)}")
    elif args.yes or agreed(words):
        train_and_test(args, plan)


def planned(args: argparse.Namespace, words: Sequence[str]) -> "Plan":
    """Return the plan, asking about what is unclear where there is a terminal."""
    from nlseg.start.planning import earlier_plan, make_plan
    from nlseg.start.readings import Unclear

    first = request = request_of(args)
    plan = earlier_plan(first)
    if plan is None:
        check_run_folder(run_folder(args), args.out, args.seed)
    answered: list[str] = []
    while plan is None:
        try:
            plan = make_plan(request, first)
        except Unclear as unclear:
            if not has_terminal():
                raise
            answered += answer(unclear)
            request = request_of(build_parser().parse_args([*words, *answered]))
    return plan


def request_of(args: argparse.Namespace) -> "Request":
    """Return what the arguments ask for.

    Raises:
        UserError: They do not say a time, a share, a config's name or a value.
    """
    from nlseg.errors import UserError
    from nlseg.start.labels import Said, parse_value
    from nlseg.start.layout import Where
    from nlseg.start.request import Request

    minutes = MINUTES if args.minutes is None else args.minutes
    seconds = 60 * minutes if args.hours is None else 3600 * args.hours
    if not 0 < seconds < 1e8:
        raise UserError("--hours and --minutes take a time above 0")
    if not 0 < args.test < 1:
        raise UserError(f"--test {args.test}: is no share between 0 and 1")
    if args.binary is not None and not args.binary > 0:
        raise UserError(f"--binary {args.binary:g}: takes a level above 0, such as 128")
    if args.out.suffix != ".py":
        raise UserError(f"--out {args.out}: a config's name ends in .py")
    background = None if args.background is None else parse_value(args.background)
    said = Said(
        tuple(map(parse_value, args.ignore)), tuple(map(parse_value, args.keep)), background
    )
    where = Where(args.images, args.masks, args.image_suffix, args.mask_suffix)
    return Request(
        folder=args.folder, out=args.out, seconds=seconds, where=where, said=said,
        classes=args.classes, kind=args.format, unlabelled=args.unlabelled, test=args.test,
        fetch=not args.from_scratch, binary=args.binary,
    )  # fmt: skip


def has_terminal() -> bool:
    """Return whether somebody can be asked."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()


def ask(question: str) -> str:
    """Return what is typed; nothing where the input ends."""
    try:
        return input(question).strip()
    except EOFError:
        print()
        return ""


def answer(unclear: "Unclear") -> list[str]:
    """Ask which reading is right; return the options that say it."""
    print(unclear.question)
    for number, reading in enumerate(unclear.readings, 1):
        print(f"  {number}. {reading.meaning}  ({' '.join(reading.options)})")
    while True:
        given = ask(f"1 to {len(unclear.readings)}, or nothing to stop: ")
        if not given:
            raise unclear
        if given.isdigit() and 1 <= int(given) <= len(unclear.readings):
            return list(unclear.readings[int(given) - 1].options)


def go_on(words: Sequence[str]) -> str:
    """Return the command that trains without asking."""
    import shlex

    kept = [word for word in words if word not in ("--plan-only", "--yes")]
    return shlex.join(["nlseg", "start", *kept, "--yes"])


def agreed(words: Sequence[str]) -> bool:
    """Ask whether to train; without a terminal say how to go on."""
    if not has_terminal():
        print(
            f"there is no terminal to ask on, so this is the plan alone; train with: {go_on(words)}"
        )
        return False
    given = ask("train, test and report now? [y/N] ").lower()
    if given in ("y", "yes"):
        return True
    print(f"later: {go_on(words)}")
    return False


def train_and_test(args: argparse.Namespace, plan: "Plan") -> None:
    """Train to the end, from where an earlier call stopped, and test once."""
    import shlex

    from nlseg.commands import train
    from nlseg.run import checkpoint
    from nlseg.run.folder import held

    work_dir = run_folder(args)
    check_run_folder(work_dir, plan.config, args.seed)
    newest = checkpoint.newest(work_dir)[0] if work_dir.is_dir() else None
    record = checkpoint.read_record(newest) if newest else None
    if record is None or record.iter < plan.iterations:
        words = [str(plan.config), "--work-dir", str(work_dir)]
        words += ["--resume"] if newest else []
        words += ["--set", f"randomness.seed={args.seed}"]
        train.train(train.build_parser().parse_args(words))
        newest = checkpoint.newest(work_dir)[0]
    else:
        print(f"trained already: {newest}")
    assert newest is not None
    report = finished_test(work_dir, newest)
    if report is None:
        with held(work_dir / "test", "tests", "give another --work-dir"):
            report = finished_test(work_dir, newest) or tested(plan, work_dir, newest)
    print(f"config: {plan.config}\nweights: {newest}")
    if report is not None:
        print(f"report: {report}")
    files = shlex.join([str(plan.config), str(newest)])
    print(f"label new images: nlseg predict {files} IMAGES --out labelled")


def run_folder(args: argparse.Namespace) -> Path:
    """Return the folder that is trained in."""
    return Path(args.work_dir or Path("work_dirs") / args.out.stem)


def check_run_folder(work_dir: Path, file: Path, seed: int) -> None:
    """Refuse to go on with the run of another plan: it may have trained on this one's test images.

    Args:
        work_dir: The run folder; it may be missing, or hold no run.
        file: Config of the plan; one that is not there yet goes on with no run.
        seed: Of the training.

    Raises:
        UserError: The folder holds the run of another plan, or one with another seed.
    """
    from nlseg.config import load_config
    from nlseg.errors import UserError
    from nlseg.run import checkpoint

    if not work_dir.is_dir() or checkpoint.newest(work_dir)[0] is None:
        return
    kept = work_dir / file.name
    run, plan = (load_config(f, check=False) if f.is_file() else {} for f in (kept, file))
    marks = [(config.get("custom") or {}).get("plan") for config in (run, plan)]
    if not file.is_file() or marks[0] != marks[1]:
        raise UserError(
            f"{work_dir}: holds the run of another plan; give another --work-dir, or move it away"
        )
    before = (run.get("randomness") or {}).get("seed")
    if before not in (None, seed):
        raise UserError(
            f"{work_dir}: was trained with --seed {before}, now it is {seed}; give the same, or "
            "another --work-dir"
        )


def tested(plan: "Plan", work_dir: Path, weights: Path) -> Path | None:
    """Test weights; return the page about it."""
    from nlseg.commands import test

    words = [str(plan.config), str(weights), "--work-dir", str(work_dir / "test"), "--report"]
    words += ["--tta"] if plan.tta else []
    test.test(test.build_parser().parse_args(words))
    return finished_test(work_dir, weights)


def finished_test(work_dir: Path, weights: Path) -> Path | None:
    """Return the page of a test of these weights that came to its end."""
    for receipt in sorted((work_dir / "test").glob("*/receipt.json"), reverse=True):
        page = receipt.with_name("report.html")
        if page.is_file() and receipt.stat().st_mtime >= weights.stat().st_mtime:
            return page
    return None
