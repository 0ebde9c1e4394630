"""Arguments that the commands share, without heavy imports: ``--help`` answers at once."""

import argparse
from collections.abc import Sequence
from typing import Any


def plain_parser(description: str | None) -> argparse.ArgumentParser:
    """Make a parser that takes options by their full names only.

    Args:
        description: What the command says about itself, its line breaks kept.
    """
    return argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def command_parser(description: str | None) -> argparse.ArgumentParser:
    """Make a parser whose first argument is a config.

    Args:
        description: What the command says about itself, its line breaks kept.
    """
    parser = plain_parser(description)
    parser.add_argument("config", help="config file, or the bare name of a published one")
    return parser


def add_overrides(parser: argparse.ArgumentParser, example: str) -> None:
    """Add ``--cfg-options`` or ``--set``, which may be given several times, as ``overrides``.

    Args:
        parser: It gets the argument.
        example: Ends the help text.
    """
    parser.add_argument(
        "--cfg-options", "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        dest="overrides", help=f"settings to override, {example}",
    )  # fmt: skip


def add_config_options(
    parser: argparse.ArgumentParser, example: str = "such as data_root=/data"
) -> None:
    """Add the overrides, and the leave to have keys in the config that nothing reads."""
    add_overrides(parser, example)
    parser.add_argument(
        "--allow-unknown-keys", action="store_true",
        help="accept top-level config keys that no part of a run reads",
    )  # fmt: skip


def refuse_option(parser: argparse.ArgumentParser, option: str, instead: str) -> None:
    """Answer an option of mmsegmentation's script that is not here with what to use instead.

    Args:
        parser: Of the command that has the script's place.
        option: Such as ``--show``.
        instead: Ends the sentence.
    """

    class Refused(argparse.Action):
        def __call__(
            self, parser: argparse.ArgumentParser, namespace: argparse.Namespace,
            values: str | Sequence[Any] | None, option_string: str | None = None,
        ) -> None:  # fmt: skip
            parser.error(f"{option_string}: {instead}")

    parser.add_argument(option, action=Refused, nargs="?", help=argparse.SUPPRESS)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what a training and a test are told alike."""
    parser.add_argument("--work-dir", metavar="DIR", help="folder for logs and results")
    parser.add_argument("--amp", action="store_true", help="compute in half precision")
    parser.add_argument(
        "--fast", action="store_true", help="turn on what is quick and safe on this hardware"
    )
    parser.add_argument(
        "--launcher", choices=("none", "pytorch", "slurm", "mpi"), default="none",
        help="who starts the processes",
    )  # fmt: skip
    parser.add_argument("--local-rank", "--local_rank", type=int, help=argparse.SUPPRESS)
