"""``tools/test.py --tta --fast`` of a full-size R-50 on drawn scenes."""

import time
from pathlib import Path

import torch

from gpu_proof.arguments import step_parser, write_result
from gpu_proof.data import CITYSCAPES, QUICKSTART, cityscapes_config, scenes
from nlseg.commands.test import main as test
from nlseg.run.runner import Runner


def checkpoint(work: Path, dry: bool) -> Path:
    """Return the weights of a profiled training, or random ones where none is there."""
    trained = sorted(work.glob("runs/*/iter_*.pth"))
    if trained:
        return trained[0]
    cfg = cityscapes_config(work, "random", 1, dry)
    file = work / "random.pth"
    torch.save({"meta": {}, "state_dict": Runner.build(cfg).model.state_dict()}, file)
    return file


def main() -> None:
    args = step_parser(__doc__).parse_args()
    weights = checkpoint(args.work, args.dry)
    start = time.perf_counter()
    test(
        [
            str(QUICKSTART if args.dry else CITYSCAPES), str(weights), "--tta", "--fast",
            "--work-dir", str(args.work / "runs" / "test"), "--cfg-options",
            f"data_root={scenes(args.work, args.dry)}", "model.pretrained=None",
        ]
    )  # fmt: skip
    write_result(args, {"seconds": time.perf_counter() - start})


if __name__ == "__main__":
    main()
