"""Predict some images of a receipt again, in the batches they were in, and compare the counts."""

import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch.utils.data import Sampler

from nlseg.config import load_config
from nlseg.config.published import find_config
from nlseg.errors import ConfigError, DataError, UserError
from nlseg.evaluation.image_counts import ImageCounts
from nlseg.evaluation.iou import IoUMetric
from nlseg.files import sha256_of
from nlseg.registry import DATA_SAMPLERS
from nlseg.run.command import use_test_time_augmentation, without_training
from nlseg.run.runner import Runner
from nlseg.weights.downloads import locate
from nlseg.zoo.data import digest_of_config, file_pairs, hash_files, image_names
from nlseg.zoo.receipt import Receipt

_NOT_AGAIN = ("receipt", "report", "visualization")  # hooks that write what nobody asked for


class NothingToRunError(UserError):
    """Weights, config or data of a receipt are not here; says what to give."""


class NotWhatWasTestedError(UserError):
    """Weights or config are here, but others than those of the receipt."""


@DATA_SAMPLERS.register_module()
class ChosenImages(Sampler[int]):
    """Yields given images in their order.

    Args:
        dataset: The data set.
        indices: Positions in it.
        seed: Accepted as every sampler gets it; nothing is drawn.
    """

    def __init__(self, dataset: Any, indices: Sequence[int], seed: int | None = None) -> None:
        self.dataset, self.indices = dataset, list(indices)

    def __iter__(self) -> Iterator[int]:
        """Iterate over the positions."""
        return iter(self.indices)

    def __len__(self) -> int:
        """Count them."""
        return len(self.indices)


@dataclass(frozen=True)
class Again:
    """An image that was predicted again.

    Args:
        name: Its name in the receipt.
        problem: What is not as it was; empty where every count is equal.
    """

    name: str
    problem: str


def config_of(receipt: Receipt, given: str | None) -> Config:
    """Read the config of a receipt: the given one, the one beside it, or a published one.

    A published one gets the views and the half precision of the test; the one beside has them.

    Raises:
        NothingToRunError: There is none.
        NotWhatWasTestedError: It is another one.
    """
    said, protocol = receipt.facts["config"], receipt.facts["protocol"]
    beside = receipt.path.with_name(Path(said["file"]).name)
    try:
        file = find_config(given or (beside if beside.is_file() else beside.name))
    except ConfigError as error:
        raise NothingToRunError(f"{error}; give the config of the test by --config FILE") from None
    cfg = load_config(file, allow_unknown=True)
    if protocol["multi_scale_and_flip"] and "module" not in cfg.model:
        use_test_time_augmentation(cfg)
    if protocol["half"] is not None:
        cfg.test_cfg.fp16 = True
    if (found := digest_of_config(cfg)) != said["sha256"]:
        raise NotWhatWasTestedError(
            f"{file}: is not what was tested: its digest is {found}, written is {said['sha256']}"
        )
    return cfg


def weights_of(receipt: Receipt, cfg: Config, given: str | None) -> Path:
    """Return the weights of a receipt: the given ones, those that the config names, or a file near.

    Raises:
        NothingToRunError: There are none.
        NotWhatWasTestedError: They are others.
    """
    said = receipt.facts["weights"]
    if said is None:
        raise NothingToRunError("the receipt does not say which weights were tested")
    folders = [receipt.path.parent, *receipt.path.parents[1:3]]
    places = [given] if given else [cfg.get("load_from"), *(f / said["file"] for f in folders)]
    here = [path for path in (locate(p) for p in places if p) if path.is_file()]
    for path in here:
        if sha256_of(path) == said["sha256"]:
            return path
    wanted = f"{said['file']} with SHA-256 {said['sha256']}"
    if here:
        raise NotWhatWasTestedError(
            f"{here[0]}: is not what was tested, which was {wanted}; its own is "
            f"{sha256_of(here[0])}"
        )
    raise NothingToRunError(f"the weights are not here; give {wanted} by --checkpoint FILE")


def use_data_root(dataset: Any, root: str) -> None:
    """Let every part of a data set's config start from another folder."""
    if isinstance(dataset, Mapping):
        if "data_root" in dataset:
            dataset["data_root"] = root  # type: ignore[index]
        for value in dataset.values():
            use_data_root(value, root)
    elif isinstance(dataset, (list, tuple)):
        for item in dataset:
            use_data_root(item, root)


def batch_with(index: int, *, size: int, processes: int, total: int) -> list[int]:
    """Return the images that were in one batch with an image, in their order.

    Args:
        index: The image.
        size: Images in a batch of one process.
        processes: Number of processes; image i went to process i modulo this number.
        total: Images in the data set.
    """
    rank, place = index % processes, index // processes
    first = place // size * size
    indices = (rank + processes * at for at in range(first, first + size))
    return [index for index in indices if index < total]


def rerun(
    receipt: Receipt,
    *,
    config: str | None,
    checkpoint: str | None,
    data_root: str | None,
    number: int,
    seed: int,
) -> list[Again]:
    """Predict random images of a receipt again.

    Args:
        receipt: The receipt.
        config: Config of the test; None for the one beside the receipt, or a published one.
        checkpoint: Its weights; None for those that the config names.
        data_root: Folder of the data; None for the config's.
        number: How many images, at least; their whole batches are taken.
        seed: Seed of the choice.

    Returns:
        The images.

    Raises:
        NothingToRunError: Weights, config or data are not here.
        NotWhatWasTestedError: Weights or config are others.
    """
    cfg = config_of(receipt, config)
    weights = weights_of(receipt, cfg, checkpoint)
    if data_root is not None:
        use_data_root(cfg.test_dataloader.dataset, data_root)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(receipt.facts["machine"]["threads"])
        return _predict(receipt, cfg, weights, number, seed)
    finally:
        torch.set_num_threads(threads)


def _predict(receipt: Receipt, cfg: Config, weights: Path, number: int, seed: int) -> list[Again]:
    cfg.load_from, cfg.resume, cfg.launcher, cfg.log_level = str(weights), False, "none", "ERROR"
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.test_dataloader.sampler = {"type": "ChosenImages", "indices": []}
    cfg.default_hooks = {**cfg.get("default_hooks", {}), **dict.fromkeys(_NOT_AGAIN)}
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        runner = Runner.build(without_training(cfg))
        try:
            loop = runner.test_loop
        except DataError as error:
            raise NothingToRunError(
                f"{error}\ngive the folder of the data by --data-root DIR"
            ) from None
        dataset = loop.dataloader.dataset
        loop.dataloader.sampler.indices += _choose(receipt, dataset, number, seed)
        counts = ImageCounts()
        prefix = receipt.facts["metric"]["prefix"]
        for metric in loop.evaluator.metrics:
            if isinstance(metric, IoUMetric) and metric.prefix == prefix:
                metric.image_counts = counts
        runner.test()
    return _differences(receipt, dataset, counts)


def _choose(receipt: Receipt, dataset: Any, number: int, seed: int) -> list[int]:
    """Draw images of the receipt, and return them with those that were in their batches.

    Raises:
        NothingToRunError: The data set is another one.
    """
    known = {*receipt.images.names}
    names = image_names(dataset).values()
    here = [index for index, name in enumerate(names) if name in known]
    if not here:
        raise NothingToRunError(
            "no image of the receipt is in the data set; give its folder by --data-root DIR"
        )
    protocol = receipt.facts["protocol"]
    batches = {
        tuple(
            batch_with(
                index, size=protocol["batch_size"], processes=protocol["processes"],
                total=len(dataset),
            )
        )
        for index in random.Random(seed).sample(here, min(number, len(here)))
    }  # fmt: skip
    ordered = sorted(batches, key=lambda batch: (-len(batch), batch))
    short = [batch for batch in ordered if len(batch) < len(ordered[0])]
    ordered = ordered[: len(ordered) - len(short)] + short[:1]  # only the last one may be short
    return [index for batch in ordered for index in batch]


def _differences(receipt: Receipt, dataset: Any, counts: ImageCounts) -> list[Again]:
    images, names, labels = counts.gather(), image_names(dataset), dict(file_pairs(dataset))
    places = {name: i for i, name in enumerate(receipt.images.names)}
    found = []
    for position, path in enumerate(images.names):
        name = names[path]
        if name not in places:
            found.append(Again(name, "is not among the images of the receipt"))
            continue
        place = places[name]
        files = hash_files([(path, labels.get(path))])[path]
        now, then = images.of_image(position), receipt.images.of_image(place)
        moved = abs(_dense(now, len(receipt.classes)) - _dense(then, len(receipt.classes))).sum()
        off = (moved + 1) // 2  # a pixel leaves one pair of classes for another
        if files != receipt.files[place]:
            found.append(Again(name, "its image or label file is not the one that was tested"))
        elif off:
            found.append(Again(name, f"{off} pixels are counted elsewhere than in the receipt"))
        else:
            found.append(Again(name, ""))
    return found


def _dense(pairs: Any, num_classes: int) -> Any:
    counts = torch.zeros(num_classes + 1, num_classes + 1, dtype=torch.int64).numpy()
    counts[pairs[:, 0], pairs[:, 1]] = pairs[:, 2]
    return counts
