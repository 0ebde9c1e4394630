"""Check the receipt of a test: recompute its scores, and predict some of its images again.

    nlseg verify work_dirs/RUN/TIMESTAMP/receipt.json
    nlseg verify receipt.json --images 0      # only what the receipt itself holds

Config and weights are those beside the receipt, as nlseg test leaves them, or given; a published
config is known by its name. A config is
Python, and reading it runs it.

Exit code 0: all agrees; 1: something differs; 2: something to mend in the command;
3: what the receipt holds agrees, but config, weights or data to predict with are not here.
"""

import argparse
import random
import time
from collections.abc import Sequence

from nlseg.commands.arguments import plain_parser

DIFFERS, MISSING = 1, 3


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command's arguments."""
    parser = plain_parser(__doc__)
    parser.add_argument("receipt", help="receipt.json, or the folder of a test")
    parser.add_argument(
        "--images", type=int, default=3, metavar="N", help="predict N random images again (3)"
    )
    parser.add_argument("--seed", type=int, help="seed of the choice of images (default: random)")
    parser.add_argument("--config", metavar="FILE", help="config of the test")
    parser.add_argument("--checkpoint", metavar="FILE", help="weights that were tested")
    parser.add_argument("--data-root", metavar="DIR", help="folder of the data")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; without arguments, with those of the process."""
    args = build_parser().parse_args(arguments)

    from nlseg.errors import ending_at_the_user

    with ending_at_the_user():
        return verify(args)


def verify(args: argparse.Namespace) -> int:
    """Check, print what was found, and return the exit code."""
    from nlseg.zoo.receipt import problems, read_receipt

    receipt = read_receipt(args.receipt)
    begin = time.perf_counter()
    found = problems(receipt)
    passed = time.perf_counter() - begin
    for line in found:
        print(f"differs: {line}")
    if found:
        return DIFFERS
    facts = receipt.facts
    part = ", partial" if receipt.is_partial else ""
    scores = ", ".join(f"{name} {value}" for name, value in receipt.scores.items())
    print(
        f"{scores}: as the counts of {facts['data']['images']} images give{part} ({passed:.2f} s)"
    )
    if args.images < 1:
        return 0

    from nlseg.zoo.rerun import NothingToRunError, NotWhatWasTestedError, rerun

    seed = random.SystemRandom().randrange(1 << 31) if args.seed is None else args.seed
    try:
        images = rerun(
            receipt, config=args.config, checkpoint=args.checkpoint, data_root=args.data_root,
            number=args.images, seed=seed,
        )  # fmt: skip
    except NothingToRunError as error:
        print(f"nothing was predicted again: {error}")
        return MISSING
    except NotWhatWasTestedError as error:
        print(f"differs: {error}")
        return DIFFERS
    for image in images:
        print(f"{image.name}: {image.problem or 'every count is equal'}")
    different = sum(bool(image.problem) for image in images)
    print(f"{len(images)} images predicted again (--seed {seed}), {different} differ")
    if different:
        made = facts["machine"]
        print(f"the receipt was made on {made['device']} with PyTorch {made['torch']}")
    return DIFFERS if different else 0
