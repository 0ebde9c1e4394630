#!/usr/bin/env python3
"""Write the tables of docs/*.md and model-index.yml from configs/zoo.yml and its receipts.

python tools/misc/write_zoo.py            # writes what has changed
python tools/misc/write_zoo.py --check    # exit code 1 where something would change
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nlseg.errors import ending_at_the_user

ROOT = Path(__file__).parents[2]


def outputs(root: Path) -> dict[Path, str]:
    """Return what every generated file should hold."""
    from nlseg.zoo.catalogue import read_zoo
    from nlseg.zoo.tables import fill, model_index

    zoo = read_zoo(root / "configs/zoo.yml")
    pages = [
        page for page in sorted((root / "docs").glob("*.md")) if "<!-- zoo: " in page.read_text()
    ]
    files = {page: fill(page.read_text(), zoo, page.parent) for page in pages}
    return {**files, root / "model-index.yml": model_index(zoo, root)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args(arguments)
    with ending_at_the_user():
        changed = [
            (path, text)
            for path, text in outputs(ROOT).items()
            if not path.is_file() or path.read_text() != text
        ]
    for path, text in changed:
        said = "differs from configs/zoo.yml" if args.check else "written"
        print(f"{path.relative_to(ROOT)}: {said}")
        if not args.check:
            path.write_text(text)
    return int(bool(changed) and args.check)


if __name__ == "__main__":
    sys.exit(main())
