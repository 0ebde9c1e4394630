"""Commands take a config and its overrides in one way."""

import argparse
import subprocess
import sys
from pathlib import Path

from nlseg.commands.arguments import add_config_options, add_run_arguments, command_parser
from tests.cases import each_case

TOOLS = Path(__file__).parents[2] / "tools"
READ_A_CONFIG = (
    "train.py", "test.py", "check_data.py", "browse_dataset.py",
    "analysis_tools/confusion_matrix.py", "analysis_tools/get_flops.py",
)  # fmt: skip


def parse(*words: str) -> argparse.Namespace:
    parser = command_parser("Do it.")
    add_config_options(parser)
    add_run_arguments(parser)
    return parser.parse_args(words)


def test_overrides_add_up_under_both_names() -> None:
    args = parse("a.py", "--set", "lr=1", "x=2", "--cfg-options", "y=3", "--fast")
    assert (args.config, args.overrides, args.fast) == ("a.py", ["lr=1", "x=2", "y=3"], True)
    assert (args.launcher, args.amp, args.allow_unknown_keys) == ("none", False, False)


@each_case("tool", READ_A_CONFIG)
def test_tools_offer_both_names(tool: str) -> None:
    command = [sys.executable, str(TOOLS / tool), "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "--set KEY=VALUE" in said
    assert "--allow-unknown-keys" in said
