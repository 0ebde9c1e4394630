#!/usr/bin/env python3
"""Draw a small street-scene data set in the Cityscapes layout, or measure what guesses reach."""

import argparse


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", help="folder of the data set")
    parser.add_argument("--guess", action="store_true", help="measure guesses on the val split")
    parser.add_argument("--num-train", type=int, default=60, help="scenes to train on (60)")
    parser.add_argument("--num-val", type=int, default=20, help="scenes to validate on (20)")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 256), metavar=("H", "W"))
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Draw or measure."""
    args = parse_args()
    from nlseg.datasets.synthetic import guess_scores, write_street_scenes

    if args.guess:
        scores = guess_scores(args.root)
        for name, score in scores.items():
            print(f"mIoU of the best guess by {name:9s} {score:6.2f}")
        return
    write_street_scenes(
        args.root, num_train=args.num_train, num_val=args.num_val, size=args.size, seed=args.seed
    )
    print(f"{args.root}: {args.num_train} training and {args.num_val} validation scenes")


if __name__ == "__main__":
    main()
