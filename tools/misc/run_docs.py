#!/usr/bin/env python3
"""Run the command blocks of the README and the documentation, in a sandbox with drawn data.

    python tools/misc/run_docs.py                     # every page
    python tools/misc/run_docs.py README.md docs/configs.md
    python tools/misc/run_docs.py --shell             # each block as one script of a real shell
    python tools/misc/run_docs.py docs/notebooks/*.ipynb    # needs the extra docs

A fenced block of bash or Python runs as it stands. A Python block that begins with `# some/file.py`
is written to that file. A comment above a block says what else holds:

    <!-- not run: it needs a GPU -->          the reason is shown on the page
    <!-- run by: tests/test_x.py -->          something else runs it
    <!-- ends with: some words -->            it fails with exit code 2 and says these words
    <!-- slow -->                             it is left out with --quick
    <!-- python run by: tests/test_x.py -->   so are all Python blocks of the page

Whether run or not, the arguments of each `nlseg` and `python tools/...` line must be known to that
command. The sandbox holds this checkout with the published configs made tiny, a data set, weights
after two iterations, and what stands for CONFIG, CHECKPOINT, IMAGE and RUN.
"""

import argparse
import contextlib
import glob
import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")))
SHELL = ("bash", "sh", "shell", "console")
TINY = "configs/quickstart/nonlocal_r18-d8_1xb4-300_synthetic-96x192.py"
WORDS = {
    "CONFIG": TINY, "CHECKPOINT": "work_dirs/run/iter_2.pth", "IMAGE": "photos/street.png",
    "RUN": "work_dirs/run", "OLD": "old/nonlocal_r50-d8_512x1024_40k_cityscapes.py",
}  # fmt: skip
SCRIPTS = {
    "train.py": "train", "test.py": "test", "check_data.py": "check-data",
    "browse_dataset.py": "browse", "sweep.py": "sweep", "print_config.py": "config",
    "migrate_config.py": "migrate", "confusion_matrix.py": "confusion",
    "analyze_logs.py": "analyze-logs", "get_flops.py": "flops",
}  # fmt: skip
_FENCE = re.compile(
    r"(?:^<!--\s*(?P<mark>[^>]*?)\s*-->\n+)?^```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^```",
    re.DOTALL | re.MULTILINE,
)
_LIMIT_S = 300


@dataclass(frozen=True)
class Block:
    """A fenced block of commands.

    Args:
        page: The file it stands in.
        line: Line of its fence, from 1.
        language: ``python``, or one of :data:`SHELL`.
        text: What is in it.
        mark: The comment above it, without its brackets; empty where there is none.
    """

    page: str
    line: int
    language: str
    text: str
    mark: str

    @property
    def place(self) -> str:
        """Where it stands, as ``page:line``."""
        return f"{self.page}:{self.line}"

    def after(self, word: str) -> str | None:
        """Return what its mark says after a word, None where the mark is another one."""
        return self.mark[len(word) :].strip() if self.mark.startswith(word) else None

    @property
    def elsewhere(self) -> str | None:
        """Why it is not run here, or what runs it; None where it is run here."""
        return self.after("not run:") or self.after("run by:") or None

    def lines(self) -> list[str]:
        """Return the command lines of a shell block, those that go on over a backslash as one."""
        joined = re.sub(r"\\\n\s*", " ", self.text)
        plain = (line.strip().removeprefix("$ ") for line in joined.splitlines())
        return [line for line in plain if line and not line.startswith("#")]


def blocks_of(page: str) -> list[Block]:
    """Return the blocks of a page that hold commands.

    Args:
        page: A Markdown file, relative to the checkout.
    """
    if page.endswith(".ipynb"):
        return [Block(page, 1, "notebook", "", "")]
    text = (ROOT / page).read_text()
    whole = re.search(r"<!--\s*python (run by: [^>]*?)\s*-->", text)
    found = []
    for match in _FENCE.finditer(text):
        language, mark = match["language"], match["mark"] or ""
        if language == "python" and whole is not None and not mark:
            mark = whole[1]
        if language == "python" or language in SHELL:
            line = text[: match.start("language")].count("\n") + 1
            found.append(Block(page, line, language, match["text"], mark))
    return found


def wrong_arguments(block: Block) -> Iterator[str]:
    """Name the lines whose arguments the command does not know."""
    for line in block.lines() if block.language in SHELL else ():
        for words in commands_in(line):
            if words[0] in {"--version", "--help", "--print-completion"} or "--help" in words:
                continue
            said = io.StringIO()
            try:
                with contextlib.redirect_stderr(said):
                    parser_of(words).parse_args(words[1:])
            except SystemExit:
                yield f"{block.place}: {line}: {said.getvalue().strip().splitlines()[-1]}"
            except ModuleNotFoundError:
                yield f"{block.place}: {line}: there is no command {words[0]}"


def commands_in(line: str) -> Iterator[list[str]]:
    """Return the words of each nlseg command in a line: the command's name and its arguments."""
    for part in re.split(r"\||&&|;", line):
        words = shlex.split(part, comments=True)
        while words and re.fullmatch(r"\w+=\S*", words[0]):
            words.pop(0)
        if words[:1] == ["nlseg"] and words[1:]:
            yield words[1:]
        elif words[:1] == ["python"] and len(words) > 1:
            command = SCRIPTS.get(Path(words[1]).name)
            if command and words[1].startswith("tools/"):
                yield [command, *words[2:]]


def parser_of(words: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser that a command takes for its words.

    Raises:
        ModuleNotFoundError: There is no such command.
    """
    from nlseg.commands.main import module_of

    module = module_of(words[0])
    parser: argparse.ArgumentParser = module.build_parser()
    return parser


def shrunk(config: str) -> str:
    """Make the network, the crops and the schedule of a config file tiny."""
    for pattern, value in (
        (r"pretrained='[^']*'", "pretrained=None"),
        (r"depth=\d+", "depth=18"),
        (r"type='ResNetV1c',", "type='ResNetV1c', base_channels=8, stem_channels=8,"),
        (r"in_channels=2048", "in_channels=64"),
        (r"in_channels=1024", "in_channels=32"),
        (r"\bchannels=(512|256)", "channels=8"),
        (r"num_workers=\d+", "num_workers=0"),
        (r"persistent_workers=True", "persistent_workers=False"),
        (r"max_iters=\d+, val_interval=\d+", "max_iters=2, val_interval=2"),
        (r"end=\d+", "end=2"),
        (r"(interval=)\d{2,}", r"\g<1>1"),
        (r"img_ratios = \[.*\]", "img_ratios = [0.5, 1.0]"),
    ):
        config = re.sub(pattern, value, config)
    eighth = r"\1(\2_EIGHTH, \3_EIGHTH)"
    config = re.sub(r"((?:crop_size|scale) ?= ?)\((\d{3,4}), (\d{3,4})\)", eighth, config)
    return re.sub(r"(\d+)_EIGHTH", lambda match: str(max(32, int(match[1]) // 8)), config)


def make_sandbox(folder: Path) -> None:
    """Fill a folder with a checkout of tiny configs, drawn data, and weights."""
    import cv2

    from nlseg.datasets.synthetic import write_street_scenes

    for name in ("tools", "configs", "requirements"):
        shutil.copytree(ROOT / name, folder / name)
    for file in (folder / "configs").rglob("*.py"):
        if file.name != Path(TINY).name:
            file.write_text(shrunk(file.read_text()))
    tiny = folder / TINY
    tiny.write_text(
        tiny.read_text()
        .replace("base_channels=16, stem_channels=16", "")
        .replace("depth=18, ", "")
        .replace("in_channels=128, channels=64", "")
        .replace("in_channels=64, channels=32", "")
        .replace("num_workers=1", "num_workers=0")
        .replace("max_iters=300, val_interval=100", "max_iters=2, val_interval=2")
        .replace("end=300", "end=2")
        .replace("interval=100", "interval=2")
        .replace("(256, 128)", "(128, 64)")
        .replace("(96, 192)", "(64, 128)")
    )
    for name in ("quickstart", "cityscapes"):
        write_street_scenes(folder / "data" / name, num_train=4, num_val=2, size=(64, 128))
    draw_cracks(folder / "data/cracks")
    photos = folder / "photos"
    photos.mkdir()
    scenes = sorted((folder / "data/quickstart/leftImg8bit/val").rglob("*.png"))
    shutil.copy(scenes[0], photos / "street.png")
    shutil.copy(scenes[1], photos / "corner.png")
    film = cv2.VideoWriter(str(folder / "film.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 5, (128, 64))
    for _ in range(3):
        film.write(cv2.imread(str(scenes[0])))
    film.release()
    old = folder / WORDS["OLD"]
    old.parent.mkdir()
    old.write_text(OLD_CONFIG)
    (folder / "bin").mkdir()
    for name, words in (("nlseg", "-m nlseg "), ("python", "")):
        shim = folder / "bin" / name
        shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n')
        shim.chmod(0o755)


def draw_cracks(root: Path) -> None:
    """Draw images of cracks and their masks: ``images/{train,val}``, ``masks/{train,val}``."""
    import cv2
    import numpy as np

    rng = np.random.RandomState(0)
    for split, count in (("train", 4), ("val", 2)):
        for number in range(count):
            mask = np.zeros((96, 128), np.uint8)
            ends = [tuple(map(int, rng.randint(0, (128, 96)))) for _ in range(2)]
            cv2.line(mask, *ends, 1, 3)
            image = rng.randint(140, 180, (96, 128, 3)).astype(np.uint8)
            image[mask == 1] //= 3
            for kind, array, suffix in (("images", image, "jpg"), ("masks", mask, "png")):
                (root / kind / split).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(root / kind / split / f"{number}.{suffix}"), array)


OLD_CONFIG = """\
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    pretrained='open-mmlab://resnet50_v1c',
    backbone=dict(type='ResNetV1c', depth=50, num_stages=4, out_indices=(0, 1, 2, 3),
                  dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1), norm_cfg=norm_cfg,
                  norm_eval=False, style='pytorch', contract_dilation=True),
    decode_head=dict(type='NLHead', in_channels=2048, in_index=3, channels=512, num_classes=19,
                     dropout_ratio=0.1, reduction=2, use_scale=True, mode='embedded_gaussian',
                     norm_cfg=norm_cfg, align_corners=False),
    train_cfg=dict(), test_cfg=dict(mode='whole'))
img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
train_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
    dict(type='Resize', img_scale=(2048, 1024), ratio_range=(0.5, 2.0)),
    dict(type='RandomCrop', crop_size=(512, 1024), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5), dict(type='PhotoMetricDistortion'),
    dict(type='Normalize', **img_norm_cfg), dict(type='Pad', size=(512, 1024), pad_val=0,
                                                 seg_pad_val=255),
    dict(type='DefaultFormatBundle'), dict(type='Collect', keys=['img', 'gt_semantic_seg'])]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='MultiScaleFlipAug', img_scale=(2048, 1024), flip=False, transforms=[
        dict(type='Resize', keep_ratio=True), dict(type='RandomFlip'),
        dict(type='Normalize', **img_norm_cfg), dict(type='ImageToTensor', keys=['img']),
        dict(type='Collect', keys=['img'])])]
part = dict(type='CityscapesDataset', data_root='data/cityscapes/')
data = dict(
    samples_per_gpu=2, workers_per_gpu=2,
    train=dict(img_dir='leftImg8bit/train', ann_dir='gtFine/train', pipeline=train_pipeline,
               **part),
    val=dict(img_dir='leftImg8bit/val', ann_dir='gtFine/val', pipeline=test_pipeline, **part))
optimizer = dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0005)
optimizer_config = dict()
lr_config = dict(policy='poly', power=0.9, min_lr=1e-4, by_epoch=False)
runner = dict(type='IterBasedRunner', max_iters=40000)
checkpoint_config = dict(by_epoch=False, interval=4000)
evaluation = dict(interval=4000, metric='mIoU')
"""


class Sandbox:
    """Runs blocks in a folder that :func:`make_sandbox` has filled.

    Args:
        folder: The folder; the process moves into it.
        shell: Whether each block goes to a shell as a whole; else a line that names a command of
            nlseg alone runs in a fork of this process, which saves it the time of the imports.
    """

    def __init__(self, folder: Path, *, shell: bool) -> None:
        self.folder, self.shell = folder, shell
        self.log = folder / "output.txt"
        self.environment = {
            **os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(folder), "COLUMNS": "100", "MPLBACKEND": "Agg",
        }  # fmt: skip

    def run(self, block: Block) -> str | None:
        """Run a block; returns what went wrong, None where it did what it should."""
        text = re.sub(rf"\b({'|'.join(WORDS)})\b", lambda word: WORDS[word[1]], block.text)
        expected = block.after("ends with:")
        if block.language == "notebook":
            code, said = self._notebook(block.page)
        elif block.language == "python":
            code, said = self._python(text)
        else:
            code, said = self._shell_block(Block(block.page, block.line, "bash", text, ""))
        if expected is not None:
            if code == 2 and expected in said:
                return None
            return f"it should end with 2 and '{expected}', but ended with {code}:\n{said}"
        return None if code == 0 else f"exit code {code}:\n{said}"

    def _python(self, text: str) -> tuple[int, str]:
        named = re.match(r"# (\S+\.py)\n", text)
        if named is None:
            file = self.folder / "block.py"
            file.write_text(text)
            return (
                self._fork(["python", "block.py"])
                if not self.shell
                else self._bash("python block.py")
            )
        file = self.folder / named[1]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return 0, ""

    def _notebook(self, page: str) -> tuple[int, str]:
        """Execute all cells; the printed last output of each code cell is shown."""
        import nbformat
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError

        os.environ.update(self.environment)
        notebook = nbformat.read(ROOT / page, as_version=4)
        try:
            NotebookClient(notebook, timeout=_LIMIT_S, kernel_name="python3").execute()
        except CellExecutionError as error:
            return 1, str(error)
        for cell in notebook.cells:
            for output in cell.get("outputs", ()):
                if "error:" in output.get("text", ""):  # a command that fails does not end a cell
                    return 1, output["text"]
        return 0, ""

    def _shell_block(self, block: Block) -> tuple[int, str]:
        if self.shell:
            return self._bash("\n".join(block.lines()))
        said = ""
        for line in block.lines():
            words = [file for word in shlex.split(line, comments=True) for file in self._glob(word)]
            plain = not re.search(r"[|<>$&;~`]", line) and words[0] in ("nlseg", "python")
            code, new = self._fork(words) if plain else self._bash(line)
            said += new
            if code:
                return code, said
        return 0, said

    def _glob(self, word: str) -> list[str]:
        matches = sorted(glob.glob(word)) if "*" in word else []
        return matches or [word]

    def _bash(self, script: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=self.folder, env=self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=_LIMIT_S,
            check=False,
        )  # fmt: skip
        return done.returncode, done.stdout

    def _fork(self, words: list[str]) -> tuple[int, str]:
        """Run ``nlseg ...`` or ``python FILE ...`` in a fork."""
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with open(self.log, "wb") as log:
                    os.dup2(log.fileno(), 1)
                    os.dup2(log.fileno(), 2)
                code = self._in_the_fork(words)
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                with contextlib.suppress(Exception):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status), self.log.read_text(errors="replace")

    def _in_the_fork(self, words: list[str]) -> int:
        os.environ.update(self.environment)
        if words[0] == "nlseg":
            from nlseg.commands.main import main

            return main(words[1:])
        if words[1] == "-m":
            sys.argv = words[2:]
            runpy.run_module(words[2], run_name="__main__", alter_sys=True)
            return 0
        sys.argv = words[1:]
        sys.path.insert(0, str((self.folder / words[1]).parent))
        runpy.run_path(words[1], run_name="__main__")
        return 0


def run_pages(pages: Sequence[str], *, shell: bool, quick: bool, keep: Path | None = None) -> int:
    """Run the blocks of some pages; returns how many went wrong."""
    with contextlib.ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        begin = time.perf_counter()
        (folder / "nlseg").symlink_to(ROOT / "nlseg")
        sys.path[:] = [str(folder), *(p for p in sys.path if Path(p or ".").resolve() != ROOT)]
        make_sandbox(folder)
        os.chdir(folder)
        import nlseg.api
        import nlseg.run.runner  # noqa: F401 - imported once for all forks

        sandbox = Sandbox(folder, shell=shell)
        first = Block("the sandbox", 0, "bash", "nlseg train CONFIG --work-dir RUN\n", "")
        wrong = 0
        blocks = [block for page in pages for block in blocks_of(page)]
        left = [block for block in blocks if block.elsewhere or (quick and block.mark == "slow")]
        for block in [first, *(block for block in blocks if block not in left)]:
            start = time.perf_counter()
            problem = sandbox.run(block)
            wrong += problem is not None
            took = time.perf_counter() - start
            print(f"{'FAILED' if problem else 'ok':6s} {took:5.1f} s  {block.place}", flush=True)
            if problem:
                print(f"{block.text}{problem}", flush=True)
                if block is first:
                    break
        print(f"{len(blocks) - len(left)} blocks run, {wrong} wrong, {len(left)} not run here; "
              f"{time.perf_counter() - begin:.0f} s")  # fmt: skip
        for block in left:
            print(f"  {block.place}: {block.mark}")
        os.chdir(ROOT)
    return wrong


def main() -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="*", default=PAGES, help="Markdown files (all)")
    parser.add_argument("--shell", action="store_true", help="run each block in a real shell")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="make the sandbox here, keep it")
    parser.add_argument("--quick", action="store_true", help="leave out what is marked slow")
    args = parser.parse_args()
    wrong = run_pages(args.pages, shell=args.shell, quick=args.quick, keep=args.keep)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
