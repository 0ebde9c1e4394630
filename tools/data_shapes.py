"""Compare planned configs with the VOC base config, at equal time, on shapes of data.

    python tools/data_shapes.py work_dirs/data_shapes --seconds 120 --seeds 3
    python tools/data_shapes.py work_dirs/data_shapes --road-scenes data/camvid --jobs 2

Draws four shapes of data and plans each as ``nlseg start`` does; with --road-scenes CamVid is a
fifth, of which all training and a few test images are linked. Then for each seed the planned config
is trained and tested, and the base config, with nothing changed but its data set, the number of
classes and random weights in place of published ones, for as long as the planned one took. Results
are kept in results.jsonl; called again, it goes on with what is missing.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="for data, runs and results")
    parser.add_argument("--seconds", type=float, default=120, help="plan, training and test (120)")
    parser.add_argument("--seeds", type=int, default=3, help="how many (3)")
    parser.add_argument(
        "--jobs", type=int, default=1, help="rows at a time, each on its share of the cores (1)"
    )
    parser.add_argument("--road-scenes", type=Path, metavar="DIR", help="CamVid")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))  # runs from a bare checkout, too

    from data_shapes import compare_all
    from nlseg.errors import ending_at_the_user

    with ending_at_the_user():
        compare_all(args)


if __name__ == "__main__":
    main()
