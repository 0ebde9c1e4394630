"""What every step is told, and how it says what it found."""

import argparse
import json
from pathlib import Path
from typing import Any

from nlseg.files import write_file


def step_parser(description: str | None) -> argparse.ArgumentParser:
    """Make a parser of what all steps are told.

    Args:
        description: What the step does.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--work", type=Path, required=True, help="folder of data and runs")
    parser.add_argument("--result", type=Path, required=True, help="JSON file of what was found")
    parser.add_argument("--dry", action="store_true", help="toy sizes")
    return parser


def write_result(args: argparse.Namespace, found: dict[str, Any]) -> None:
    """Write what was found where the step was told to."""
    text = json.dumps(found, indent=1)
    write_file(args.result, text)
