"""Test an R-50 of 150 classes on images of many sizes, with flips and scales, too."""

import time
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook

from gpu_proof.arguments import step_parser, write_result
from gpu_proof.data import ADE, images_of_many_sizes
from nlseg.run.command import training_config, use_test_time_augmentation, without_training
from nlseg.run.fast import use_fast_testing
from nlseg.run.runner import Runner

WARM = 2
"""Images before the clock starts."""


class Clock(Hook):
    """Notes when the images after the first ones begin."""

    def __init__(self) -> None:
        self.images = 0
        self.start = 0.0

    def after_test_iter(self, *_: Any, **__: Any) -> None:
        """Count, and start the clock when warm."""
        self.images += 1
        if self.images == WARM:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.start = time.perf_counter()


def config(args: Any, images: int) -> Config:
    """Read the published config of an R-50 on ADE20K, with random weights and drawn images."""
    small = [
        "model.backbone.depth=18", "model.backbone.base_channels=8",
        "model.backbone.stem_channels=8", "model.decode_head.in_channels=64",
        "model.decode_head.channels=16", "model.auxiliary_head.in_channels=32",
        "model.auxiliary_head.channels=16",
    ]  # fmt: skip
    overrides = [
        f"data_root={images_of_many_sizes(args.work, args.dry)}", "model.pretrained=None",
        f"test_dataloader.dataset.indices={images}",
        f"test_dataloader.num_workers={1 if args.dry else 8}", *(small if args.dry else []),
    ]  # fmt: skip
    cfg = training_config(
        str(ADE), work_dir=str(args.work / "runs" / "many_sizes"), overrides=overrides
    )
    if args.dry:
        cfg.test_dataloader.dataset.pipeline[1].scale = (256, 64)
    return without_training(cfg)


def images_a_second(cfg: Config) -> float:
    """Test, and return how many images a second were predicted and counted, and loaded for it."""
    runner = Runner.build(cfg)
    runner.register_hook(clock := Clock())
    runner.test()
    return (clock.images - WARM) / (time.perf_counter() - clock.start)


def main() -> None:
    args = step_parser(__doc__).parse_args()
    found = {}
    for way, images in (("fp32", 60), ("fast", 60), ("fast, 6 scales x flip", 12)):
        cfg = config(args, images)
        if way != "fp32":
            use_fast_testing(cfg)
        if "flip" in way:
            use_test_time_augmentation(cfg)
        found[way] = images_a_second(cfg)
        print(f"{way}: {found[way]:.2f} images a second")
    write_result(args, found)


if __name__ == "__main__":
    from nlseg.run import command

    command.run(main)
