"""Every door that a file comes in by, and hostile files that are tried at each."""

import contextlib
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from nlseg.api import init_model
from nlseg.config import load_config
from nlseg.errors import CheckpointError, ConfigError
from nlseg.registry import DATASETS, MODELS
from nlseg.run.runner import Runner
from nlseg.structures import SampleIndex
from tests.config.test_data_files import HOSTILE_TEXTS
from tests.datasets.folders import LOAD, config, write_pairs
from tests.datasets.test_decode import png_that_claims
from tests.faults import hostile
from tests.faults.forked import Outcome
from tests.run.tiny_segmentor import tiny_config
from tests.run.toy import toy_config

Door = Callable[[Path, Path], Any]
_FRAMES = 60


def _train_from(path: Path, folder: Path) -> None:
    Runner.from_cfg(toy_config(folder, load_from=str(path))).train()


def _resume_from(path: Path, folder: Path) -> None:
    Runner.from_cfg(toy_config(folder, load_from=str(path), resume=True)).train()


def _test_with(path: Path, folder: Path) -> None:
    Runner.from_cfg(toy_config(folder, load_from=str(path))).test()


def _pretrained(path: Path, folder: Path) -> None:
    MODELS.build({**tiny_config(), "pretrained": str(path)}).init_weights()


def _init_cfg(path: Path, folder: Path) -> None:
    settings = tiny_config()
    settings["backbone"]["init_cfg"] = {"type": "Pretrained", "checkpoint": str(path)}
    MODELS.build(settings).init_weights()


def _predict_with(path: Path, folder: Path) -> None:
    init_model(Config({"model": tiny_config(), "default_scope": "nlseg"}), path, device="cpu")


DOORS: dict[str, Door] = {
    "load_from": _train_from,
    "--resume": _resume_from,
    "test": _test_with,
    "model.pretrained": _pretrained,
    "init_cfg": _init_cfg,
    "init_model": _predict_with,
}


def refuse_weights(folder: Path, door: str) -> Outcome:
    """Give every hostile weight file to one door."""
    outcome = Outcome(f"hostile weights by {door}")
    folder.mkdir(parents=True, exist_ok=True)
    makers = [(maker, ".pth") for maker in hostile.REFUSED.values()]
    makers += [(maker, ".safetensors") for maker in hostile.SAFETENSORS.values()]
    for maker, suffix in makers:
        path, mark = folder / f"{maker.__name__}{suffix}", folder / f"{maker.__name__}.mark"
        maker(path, mark)
        outcome.injected += 1
        try:
            DOORS[door](path, folder / maker.__name__)
            outcome.notes.append(f"{maker.__name__} was not refused")
        except CheckpointError:
            outcome.survived += not mark.exists()
    return outcome


def refuse_configs(folder: Path) -> Outcome:
    """Load configs that ask for code, memory or time."""
    outcome = Outcome("hostile config")
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / "mark"
    texts = [(suffix, text) for suffix, text, _ in HOSTILE_TEXTS]
    texts += [(".yaml", text.format(mark=mark)) for text in hostile.YAML.values()]
    for suffix, text in texts:
        path = folder / f"x{suffix}"
        path.write_text(text)
        outcome.injected += 1
        try:
            load_config(path, check=False)
            outcome.notes.append(f"not refused: {text[:40]!r}")
        except ConfigError:
            outcome.survived += not mark.exists()
    return outcome


def replace_images(folder: Path) -> Outcome:
    """Train on a folder of what is no image, and of images that claim to be huge."""
    outcome = Outcome("hostile image or label map")
    names = list("abcdefghij")
    write_pairs(folder, names)
    images, labels = folder / "images", folder / "labels"
    (images / "a.png").write_bytes(png_that_claims(60_000, 60_000, 2))
    (labels / "b.png").write_bytes(png_that_claims(60_000, 60_000))
    (images / "c.png").write_bytes((images / "c.png").read_bytes()[:-30])
    (images / "d.png").write_bytes(b"")
    for path in (images / "e.png", images / "f.png", labels / "g.png", images / "h.png"):
        path.unlink()
    os.mkfifo(images / "e.png")
    (images / "f.png").symlink_to("/dev/zero")
    (labels / "g.png").symlink_to("g.png")
    (images / "h.png").symlink_to("nowhere.png")
    (labels / "i.png").write_bytes(b"GIF89a")
    dataset = DATASETS.build(config(folder, bad_samples={"policy": "replace"}))
    taken = [
        dataset[SampleIndex(number, number)]["data_samples"].img_path
        for number in range(len(names))
    ]
    outcome.injected = 9
    outcome.survived = len({cause.split(": ")[0] for cause in dataset.bad_samples.seen})
    if {Path(path).stem for path in taken} != {"j"}:
        outcome.notes.append(f"not only the whole one was taken: {taken}")
        outcome.survived = 0
    return outcome


def damage_frames(folder: Path, dice: random.Random) -> Outcome:
    """Flip bits of the cache of decoded frames; samples are to stay what they were."""
    outcome = Outcome("bit of the frame cache flipped", injected=_FRAMES)
    write_pairs(folder, list("abc"))
    plain = [sample["img"] for sample in DATASETS.build(config(folder, pipeline=LOAD))]
    for _ in range(_FRAMES):
        DATASETS.build(config(folder, pipeline=LOAD, cache="memmap"))
        (path,) = (folder / ".nlseg_cache").glob("*.frames")
        data = bytearray(path.read_bytes())
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        path.write_bytes(data)
        dataset = DATASETS.build(config(folder, pipeline=LOAD, cache="memmap"))
        with contextlib.suppress(AssertionError):
            for number, image in enumerate(plain):
                np.testing.assert_array_equal(dataset[number]["img"], image)
            outcome.survived += 1
    return outcome
