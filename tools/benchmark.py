"""Measure how fast and how large the parts are, each compared with a baseline.

    python tools/benchmark.py block train        # two sections
    python tools/benchmark.py all --quick        # does everything run? less than a minute
    python tools/benchmark.py all --out docs     # renews docs/benchmarks.md
    python tools/benchmark.py report --merge gpu/benchmarks.json --out docs

Prints tables and writes benchmarks.json, benchmarks.md and a chart for each machine. Sections that
are not measured keep what an earlier call wrote there.
"""

import argparse
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECTIONS = (
    "block", "attention", "loss", "upsample", "count", "inference", "slide", "tta", "train", "data",
    "start",
)  # fmt: skip


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "sections", nargs="+", choices=(*SECTIONS, "all", "report"), metavar="section",
        help=f"{', '.join(SECTIONS)}; all; or report, which measures nothing",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="toy sizes, to see that it runs")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is one")
    parser.add_argument("--threads", type=int, help="threads on a CPU")
    parser.add_argument("--rounds", type=int, help="most times that each way is run (7)")
    parser.add_argument(
        "--seconds", type=float, help="begin no further round of a row after so long (60)"
    )
    parser.add_argument("--match", default="", metavar="TEXT", help="only rows that hold this text")
    parser.add_argument("--peer", action="store_true", help="run an installed mmsegmentation, too")
    parser.add_argument("--keep", action="store_true", help="leave out rows that are there already")
    parser.add_argument(
        "--no-growth", action="store_true", help="leave out how time and memory grow"
    )
    parser.add_argument(
        "--one-process", action="store_true",
        help="start no process for each way; a GPU's allocator says what memory it takes",
    )  # fmt: skip
    parser.add_argument(
        "--state", default="", metavar="TEXT",
        help="keep the results beside those of this machine in another state, such as 'half rate'",
    )  # fmt: skip
    parser.add_argument("--backend", help="what compiles, instead of PyTorch's own")
    parser.add_argument("--data-root", help="folder in the layout of Cityscapes, for data")
    parser.add_argument("--merge", nargs="+", type=Path, default=[], metavar="JSON",
                        help="add the results of other files")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("work_dirs/benchmark"), metavar="DIR",
                        help="folder for what is written (work_dirs/benchmark)")  # fmt: skip
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))  # runs from a bare checkout, too

    from nlseg.run import command

    command.run(lambda: benchmark(args))


def benchmark(args: argparse.Namespace) -> None:
    from benchmark import driver, results
    from benchmark.measure import Plan
    from benchmark.peer import check_peer
    from benchmark.suite import Suite

    if args.merge:
        found = results.read(args.out)
        results.merge_files(found, args.merge)
        driver.write_files(args.out, found)
    if args.peer:
        check_peer()
    device = args.device or driver.default_device()
    rounds, seconds, side = (2, 2.0, 256) if args.quick else (7, 60.0, None)
    request = driver.Request(
        suite=Suite(device, args.quick, args.peer, args.backend),
        plan=Plan(
            device, args.threads, args.rounds or rounds, args.seconds or seconds, side,
            one_process=args.one_process,
        ),
        folder=args.out,
        command=command_line(sys.argv[1:]),
        match=args.match,
        data_root=args.data_root,
        keep=args.keep,
        growth=not args.no_growth,
        state=args.state,
    )  # fmt: skip
    chosen = [s for s in SECTIONS if s in args.sections or "all" in args.sections]
    found = driver.run(chosen, request)
    for path in driver.write_files(args.out, found):
        print(path)


def command_line(arguments: list[str]) -> str:
    """Return the command for the record, without the folder that a machine's files went to."""
    kept = list(arguments)
    if "--out" in kept:
        place = kept.index("--out")
        del kept[place : place + 2]
    return shlex.join(["tools/benchmark.py", *kept])


if __name__ == "__main__":
    main()
