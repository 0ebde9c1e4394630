"""Label images, folders, videos and rasters, and write what was found.

    nlseg predict CONFIG CHECKPOINT photos/ --out labelled
    nlseg predict CONFIG CHECKPOINT "day1/*.png" film.mp4 --out labelled --write mask geojson
    find . -name "*.jpg" | nlseg predict CONFIG CHECKPOINT - --out labelled --resume
    nlseg predict model.onnx photos/ --out labelled

The last form runs a file of 'nlseg export' on images, by onnxruntime and without PyTorch.
Writes overlays/, masks/ and whatever else --write names, and summary.csv with the share of each
class. Started several times at once by torchrun or as a Slurm array, the processes share the list.
Exit code 0: all is labelled; 1: some files could not be read, they are named; 2: nothing could be.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nlseg.commands.arguments import add_config_options, command_parser

WRITE = ("overlay", "mask", "beside", "probabilities", "geojson", "coco")


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command's arguments."""
    parser = command_parser(__doc__)
    parser.add_argument("checkpoint", help="weights: a file, https address or published name")
    parser.add_argument(
        "inputs", nargs="*", metavar="INPUT",
        help="image, video, folder, pattern, @FILE with one path a line, or - for standard input",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder")
    parser.add_argument(
        "--write", nargs="+", choices=WRITE, default=["overlay", "mask"], metavar="KIND",
        help=f"what to write: {', '.join(WRITE)} (default: overlay mask)",
    )  # fmt: skip
    parser.add_argument("--alpha", type=float, default=0.5, help="weight of the colours (0.5)")
    parser.add_argument("--resume", action="store_true", help="leave out what is already labelled")
    parser.add_argument("--device", help="cpu, cuda or cuda:1 (default: a GPU where there is one)")
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="label each N-th frame of a video (1)"
    )
    parser.add_argument(
        "--smooth", type=float, default=0.0, metavar="A",
        help="weight of earlier frames in a video's running mean, 0 to below 1 (0)",
    )  # fmt: skip
    parser.add_argument(
        "--window", type=int, nargs=2, metavar=("H", "W"), help="window of rasters in px"
    )
    parser.add_argument(
        "--stride", type=int, nargs=2, metavar=("H", "W"), help="steps between windows in px"
    )
    add_config_options(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; without arguments, with those of the process."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    exported = args.config.endswith(".onnx")
    if exported:
        args.inputs = [args.checkpoint, *args.inputs]
    elif not args.inputs:
        parser.error("the following arguments are required: INPUT")

    from nlseg.errors import ending_at_the_user

    with ending_at_the_user():
        return predict_exported(args) if exported else predict(args)


def predict(args: argparse.Namespace) -> int:
    """Label everything; returns the exit code."""
    from tqdm import tqdm

    from nlseg.memory import peak_memory, shown_bytes
    from nlseg.predict.records import Records, summarize
    from nlseg.predict.sources import find_sources, share_of_process

    check_numbers(args)
    sources = find_sources(args.inputs)
    process, processes = share_of_process()
    own = sources[process::processes]
    records = Records(args.out, process)
    records.start(resume=args.resume, processes=processes)
    job = Job(args, records, lambda line: tqdm.write(f"warning: {line}", file=sys.stderr))
    where = f" (process {process + 1} of {processes})" if processes > 1 else ""
    with tqdm(total=len(own), unit="file", desc=f"labelling{where}", disable=None) as bar:
        result = job.run(own, bar)
    file = summarize(args.out, records, job.classes, coco="coco" in args.write)
    timing = result.timing
    print(
        f"{result.labelled} labelled, {result.skipped} skipped, {len(result.failed)} failed{where}"
    )
    if timing.images:
        print(
            f"{timing.images / timing.total_s:.2f} images/s; the network waited for "
            f"{100 * timing.waiting_share:.1f} % of the time"
        )
    print(f"at most {shown_bytes(peak_memory())} of memory")
    print(f"{args.out}\n{file}")
    return exit_code(len(result.failed), result.labelled + result.skipped)


def exit_code(failed: int, labelled: int) -> int:
    """Return 0 where nothing failed, 2 where all did, else 1."""
    return 0 if not failed else 1 if labelled else 2


def predict_exported(args: argparse.Namespace) -> int:
    """Label images by an ONNX file; returns the exit code. Imports no PyTorch."""
    from tqdm import tqdm

    from nlseg.errors import DataError
    from nlseg.export.runtime import OnnxNetwork, read_picture
    from nlseg.predict.outputs import Writer
    from nlseg.predict.records import Records, summarize
    from nlseg.predict.sources import find_sources, share_of_process
    from nlseg.visualization.painter import Painter

    check_alpha(args.alpha)
    check_no_network_options(args)
    sources = find_sources(args.inputs)
    process, processes = share_of_process()
    network = OnnxNetwork(Path(args.config))
    for name in network.facts["not_in_the_file"]:
        print(f"warning: the test pipeline's {name} is not in the file", file=sys.stderr)
    painter = Painter(network.facts["classes"], network.facts["palette"], args.alpha)
    writer = Writer(args.out, args.write, painter)
    records = Records(args.out, process)
    records.start(resume=args.resume, processes=processes)
    done = records.read() if args.resume else {}
    labelled = skipped = failed = 0
    for source in tqdm(sources[process::processes], unit="file", desc="labelling", disable=None):
        known = done.get(str(source.path), {"error": "not yet"})
        if "error" not in known and all(path.is_file() for path in writer.paths(source.name)):
            skipped += 1
            continue
        try:
            if source.kind == "video":
                raise DataError(f"{source.path}: a video needs CONFIG and CHECKPOINT")
            picture = read_picture(source.path, network.facts.get("color_type", "color"))
        except DataError as error:
            failed += 1
            records.add({"source": str(source.path), "error": str(error)})
            tqdm.write(f"warning: {error}; it is left out", file=sys.stderr)
            continue
        record = writer.write(source.name, picture[..., ::-1], network.label(picture))
        records.add({"source": str(source.path), "name": str(source.name), **record})
        labelled += 1
    file = summarize(args.out, records, painter.classes, coco="coco" in args.write)
    print(f"{labelled} labelled, {skipped} skipped, {failed} failed\n{args.out}\n{file}")
    return exit_code(failed, labelled + skipped)


def check_no_network_options(args: argparse.Namespace) -> None:
    """Refuse options that an exported file cannot follow.

    Raises:
        UserError: Names the option.
    """
    from nlseg.errors import UserError

    network_only = ["device", "every", "smooth", "window", "stride", "overrides"]
    usual = {"every": 1, "smooth": 0.0, "overrides": []}
    given = [name for name in network_only if getattr(args, name) != usual.get(name)]
    if given or "probabilities" in args.write:
        named = f"--{given[0]}" if given else "--write probabilities"
        raise UserError(f"{named.replace('overrides', 'set')}: needs CONFIG and CHECKPOINT")


def check_numbers(args: argparse.Namespace) -> None:
    """Refuse numbers that mean nothing.

    Raises:
        UserError: Names the option.
    """
    from nlseg.errors import UserError

    if args.every < 1:
        raise UserError(f"--every {args.every}: give a whole number from 1 on")
    if not 0 <= args.smooth < 1:
        raise UserError(f"--smooth {args.smooth}: give a number from 0 to below 1")
    check_alpha(args.alpha)
    for name in ("window", "stride"):
        if min(getattr(args, name) or (1,)) < 1:
            raise UserError(f"--{name}: give two numbers of px above 0")


def check_alpha(alpha: float) -> None:
    """Refuse a weight that is none.

    Raises:
        UserError: Names the option.
    """
    from nlseg.errors import UserError

    if not 0 <= alpha <= 1:
        raise UserError(f"--alpha {alpha}: give a number from 0 to 1")


class Job:
    """The network and what is done with each kind of source.

    Args:
        args: The command's arguments.
        records: Remembers what was done.
        tell: Called with one line of warning.
    """

    def __init__(self, args: argparse.Namespace, records: Any, tell: Any) -> None:
        from nlseg.api import inference_pipeline, init_model
        from nlseg.config import load_config
        from nlseg.predict.labeller import Labeller, Network, Preparer
        from nlseg.predict.outputs import Writer
        from nlseg.visualization.painter import Painter

        cfg = load_config(args.config, args.overrides, allow_unknown=args.allow_unknown_keys)
        model = init_model(cfg, args.checkpoint, args.device)
        meta: Any = model.dataset_meta
        count = int(model.num_classes)  # type: ignore[arg-type]
        self.classes = list(meta.get("classes") or [f"class {k}" for k in range(count)])
        self.args, self.records, self.tell, self.model = args, records, tell, model
        self.painter = Painter(self.classes, meta.get("palette"), args.alpha)
        self.writer = Writer(args.out, args.write, self.painter)
        self.preparer = Preparer(inference_pipeline(cfg))
        wanted = "probabilities" in args.write or args.smooth > 0
        self.network = Network(model, probabilities=wanted)
        self.labeller = Labeller(self.preparer, self.network, self.writer, records, tell)

    def run(self, sources: Sequence[Any], bar: Any) -> Any:
        """Label all sources: images together, then videos and rasters one by one."""
        from nlseg.errors import DataError
        from nlseg.predict.raster import is_raster

        large: list[Any] = []
        images: list[Any] = []
        for source in sources:
            try:
                special = source.kind == "video" or is_raster(source.path)
            except DataError:
                special = True
            (large if special else images).append(source)
        result = self.labeller.run(images, resume=self.args.resume, step=bar.update)
        done = self.records.read() if self.args.resume else {}
        for source in large:
            record = done.get(str(source.path), {"error": "not yet"})
            if "error" not in record:
                result.skipped += 1
            else:
                try:
                    record = self._label_large(source)
                    self.records.add(
                        {"source": str(source.path), "name": str(source.name), **record}
                    )
                    result.labelled += 1
                except DataError as error:
                    result.failed[str(source.path)] = str(error)
                    self.records.add({"source": str(source.path), "error": str(error)})
                    self.tell(f"{error}; it is left out")
            bar.update()
        return result

    def _label_large(self, source: Any) -> dict[str, Any]:
        from tqdm import tqdm

        from nlseg.predict.raster import RasterLabeller
        from nlseg.predict.video import VideoLabeller

        args = self.args
        with tqdm(desc=source.path.name, leave=False, disable=None) as inner:
            if source.kind == "video":
                video = VideoLabeller(
                    self.preparer, self.network, self.writer, every=args.every,
                    smooth=args.smooth, tell=self.tell,
                )  # fmt: skip
                return video.run(source, inner.update)
            sizes = [tuple(size) if size else None for size in (args.window, args.stride)]
            raster = RasterLabeller(self.model, self.writer, *sizes)  # type: ignore[arg-type]

            def step(done: int, total: int) -> None:
                inner.total = total
                inner.update()

            return raster.run(source, step)
