"""The command ``nlseg``: one word names what to do, the rest belongs to that command."""

import argparse
import importlib
import keyword
import sys
from collections.abc import Sequence
from types import ModuleType

import nlseg
from nlseg.errors import USER_ERROR, near_words

COMMANDS = {
    "start": "from a folder of images and masks to a tested model",
    "train": "train a network",
    "test": "test a network: mIoU, or with --tta multi-scale + flip",
    "zoo": "list, fetch and verify the published models",
    "verify": "check the receipt of a test, and predict some of its images again",
    "predict": "label images, folders, videos and rasters",
    "publish": "write the folder of a model for others, and push it to the Hub",
    "export": "write a network as ONNX or pt2, and compare the file with it",
    "attend": "show where the network looks from a point of an image",
    "demo": "open a page: upload an image, click a point, see where the network looks",
    "plan": "say what a training will need: memory, operations, hours",
    "check-data": "look through data sets, and say what is wrong with them",
    "import": "turn an export of COCO, LabelMe or CVAT into a data set",
    "browse": "show samples as they are stored and as the network gets them",
    "config": "print a resolved config with the file and line of each value",
    "describe": "print what a class takes: types, ranges, defaults, meanings",
    "report": "write the page that explains a test or a training",
    "compare": "compare tests of the same images: classes, images, paired test",
    "sweep": "train with several values, several times each, and compare",
    "analyze-logs": "draw scores and losses of runs",
    "confusion": "draw which classes are taken for which",
    "flops": "count parameters and operations",
    "adopt": "go on here with a run folder of mmsegmentation",
    "migrate": "rewrite a config of mmsegmentation 0.x",
    "doctor": "look at this installation and this machine",
}


def module_of(command: str) -> ModuleType:
    """Import the module of a command."""
    name = command.replace("-", "_")
    return importlib.import_module(f"nlseg.commands.{name}{'_' * keyword.iskeyword(name)}")


def overview() -> str:
    """Return what is printed without a command."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {purpose}" for name, purpose in COMMANDS.items()]
    return "\n".join(
        [
            "usage: nlseg COMMAND ...",
            "",
            *lines,
            "",
            "nlseg COMMAND --help lists the arguments of a command.",
            "nlseg --version prints the version; nlseg --print-completion SHELL (bash, zsh, ...)",
            "prints a script that completes commands and options in that shell.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names.

    Returns:
        Exit code: that of the command; 2 for a command that does not exist.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0
    name, *rest = words
    if name == "--version":
        print(f"nlseg {nlseg.__version__}")
        return 0
    if name == "--print-completion":
        return print_completion(rest)
    if name not in COMMANDS:
        near = near_words(name, COMMANDS, 2)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        sys.stderr.write(f"nlseg: there is no command '{name}'{hint}\n\n{overview()}\n")
        return USER_ERROR
    sys.argv = [f"nlseg {name}", *rest]  # what the parser calls itself in its help
    code: int | None = module_of(name).main(rest)
    return code or 0


def whole_parser() -> argparse.ArgumentParser:
    """Make one parser that holds all commands; for shell completion only."""
    parser = argparse.ArgumentParser(prog="nlseg", allow_abbrev=False)
    groups = parser.add_subparsers(dest="command")
    for name, purpose in COMMANDS.items():
        own = module_of(name).build_parser()
        groups.add_parser(name, parents=[own], help=purpose, add_help=False, allow_abbrev=False)
    return parser


def print_completion(rest: Sequence[str]) -> int:
    """Print the completion script of a shell."""
    try:
        import shtab
    except ImportError:
        sys.stderr.write("nlseg: completion needs shtab: pip install 'nlseg[completion]'\n")
        return USER_ERROR
    shell = rest[0] if rest else "bash"
    if shell not in shtab.SUPPORTED_SHELLS:
        known = ", ".join(shtab.SUPPORTED_SHELLS)
        sys.stderr.write(f"nlseg: no completion for '{shell}'; choose from {known}\n")
        return USER_ERROR
    print(shtab.complete(whole_parser(), shell=shell))
    return 0
