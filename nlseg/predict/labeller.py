"""Label a list of files: decoding, the network and writing overlap, and a record is kept of each.

Threads decode ahead (OpenCV leaves Python's lock alone), the caller's thread runs the network,
other threads draw and write. Queues are short, so that memory does not grow with the list.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import Compose
from numpy.typing import NDArray
from torch import Tensor, nn

from nlseg.errors import DataError
from nlseg.predict.outputs import Writer
from nlseg.predict.records import Records
from nlseg.predict.sources import Source
from nlseg.visualization.pictures import Image

_AHEAD = 4
_DECODERS = 2
_WRITERS = 2


@dataclass
class Prepared:
    """An image, ready for the network.

    Args:
        image: RGB picture (H, W, 3) as it is stored, turned as its EXIF tag says.
        item: What the test pipeline made of it.
    """

    image: Image
    item: dict[str, Any]


@dataclass
class Timing:
    """Where the time of a list went, in seconds."""

    total_s: float = 0.0
    waited_s: float = 0.0
    images: int = 0

    @property
    def waiting_share(self) -> float:
        """Share of the time in which the network had nothing to do, in [0, 1]."""
        return self.waited_s / self.total_s if self.total_s else 0.0


@dataclass
class Result:
    """How a list ended.

    Args:
        labelled: Files that were labelled now.
        skipped: Files that an earlier call had labelled.
        failed: Files that could not be read, with the reason.
        timing: Of the files that were labelled now.
    """

    labelled: int = 0
    skipped: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    timing: Timing = field(default_factory=Timing)


class Preparer:
    """Reads an image and runs the test pipeline on it.

    Args:
        pipeline: The test pipeline without the steps that load labels.
    """

    def __init__(self, pipeline: Compose) -> None:
        self.pipeline = pipeline

    def read(self, path: Path) -> Prepared:
        """Read a file.

        Raises:
            DataError: It cannot be read; names the file and the cause.
        """
        return self._run({"img_path": str(path)}, str(path))

    def take(self, picture: NDArray[np.uint8], name: str) -> Prepared:
        """Prepare a BGR picture (H, W, 3) that is in memory, such as a frame."""
        shape = picture.shape[:2]
        sample = {"img": picture, "img_path": name, "img_shape": shape, "ori_shape": shape}
        return self._run(sample, name)

    def _run(self, sample: dict[str, Any], name: str) -> Prepared:
        image = sample.get("img")
        for step in self.pipeline.transforms:
            loads = type(step).__name__.startswith("LoadImage")
            if loads and image is not None:
                continue
            try:
                made = step(sample)
            except (DataError, OSError, ValueError, FileNotFoundError) as error:
                raise DataError(
                    f"{name}: {error}" if name not in str(error) else str(error)
                ) from error
            if made is None:
                raise DataError(f"{name}: a step of the test pipeline gave nothing")
            sample = made
            if image is None and "img" in sample:
                image = sample["img"]
        if image is None:
            raise DataError(f"{name}: no step of the test pipeline reads an image")
        return Prepared(as_rgb(image), sample)


def as_rgb(image: NDArray[Any]) -> Image:
    """Turn an image of the pipeline into a picture (H, W, 3), RGB uint8, to be looked at.

    Args:
        image: Grey (H, W), or BGR (H, W, 3): uint8, float in 0..255, or whole numbers of more than
            8 bits, of which the range that the image uses is shown.
    """
    if image.ndim == 2 or image.shape[2] == 1:
        image = np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    if image.dtype.kind in "iu" and image.dtype != np.uint8:
        low, high = int(image.min()), int(image.max())
        image = (image.astype(np.float32) - low) * (255 / max(1, high - low))
    if image.dtype != np.uint8:
        image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(image[..., ::-1])


class Network:
    """Runs a segmentor on prepared images.

    Args:
        model: The segmentor, in evaluation mode.
        probabilities: Whether the probabilities of all classes are wanted, too; ``confidence`` is
            then the largest one of each pixel (H, W) of the image labelled last.
    """

    def __init__(self, model: nn.Module, *, probabilities: bool = False) -> None:
        self.model = model
        self.probabilities = probabilities
        inner: Any = model
        self.test_cfg: Any = inner.test_cfg
        self.confidence: NDArray[np.float32] | None = None
        if probabilities:
            self.test_cfg.return_logits = True

    def label(self, prepared: Prepared) -> tuple[NDArray[np.integer], NDArray[np.float32] | None]:
        """Return the classes (H, W) of an image and, where wanted, probabilities (K, H, W)."""
        model: Any = self.model
        with torch.inference_mode():
            (sample,) = model.test_step({key: [value] for key, value in prepared.item.items()})
            label = sample.pred_sem_seg.data[0].cpu().numpy()
            probabilities = None
            if self.probabilities:
                probabilities = self.as_probabilities(sample.seg_logits.data).cpu().numpy()
                self.confidence = probabilities.max(0)
        return label, probabilities

    def as_probabilities(self, logits: Tensor) -> Tensor:
        """Turn logits (K, H, W) into probabilities; a single channel into two classes."""
        if logits.shape[0] == 1:  # already a probability of the second class
            return torch.cat((1 - logits, logits))
        return logits.float().softmax(0)


@dataclass
class Labeller:
    """Labels images with one network and writes their files.

    Args:
        preparer: Reads images.
        network: Labels them.
        writer: Writes the results.
        records: Remembers what was done.
        tell: Called with one line about a file that cannot be used.
    """

    preparer: Preparer
    network: Network
    writer: Writer
    records: Records
    tell: Callable[[str], None]

    def run(self, sources: Sequence[Source], *, resume: bool, step: Callable[[], None]) -> Result:
        """Label images one after the other.

        Args:
            sources: The images.
            resume: Leave out what the records say is done, where its files are there.
            step: Called after each file.
        """
        result = Result()
        todo = []
        done = self.records.read() if resume else {}
        for source in sources:
            if self._is_done(source, done.get(str(source.path))):
                result.skipped += 1
                step()
            else:
                todo.append(source)
        begin = time.perf_counter()
        pending: deque[tuple[Source, Future[dict[str, Any]]]] = deque()
        with ThreadPoolExecutor(_WRITERS, "writing") as writers:
            for source, prepared in self._prepared(todo, result):
                if isinstance(prepared, DataError):
                    self._fail(source, prepared, result)
                    step()
                    continue
                label, probabilities = self.network.label(prepared)
                job = writers.submit(
                    self.writer.write, source.name, prepared.image, label, probabilities
                )
                pending.append((source, job))
                while len(pending) > _AHEAD:
                    self._finish(*pending.popleft(), result)
                    step()
            for source, job in pending:
                self._finish(source, job, result)
                step()
        result.timing.total_s = time.perf_counter() - begin
        result.timing.images = result.labelled
        return result

    def _is_done(self, source: Source, record: dict[str, Any] | None) -> bool:
        if record is None or "error" in record:
            return False
        return all(path.is_file() for path in self.writer.paths(source.name))

    def _prepared(
        self, sources: Sequence[Source], result: Result
    ) -> Iterator[tuple[Source, Prepared | DataError]]:
        """Walk over the images, decoded a few ahead; errors of a file are handed on."""
        with ThreadPoolExecutor(_DECODERS, "decoding") as decoders:
            ahead: deque[tuple[Source, Future[Prepared]]] = deque()
            left = iter(sources)
            first = True
            while True:
                while len(ahead) < _AHEAD and (source := next(left, None)) is not None:
                    ahead.append((source, decoders.submit(self.preparer.read, source.path)))
                if not ahead:
                    return
                source, job = ahead.popleft()
                begin = time.perf_counter()
                try:
                    prepared: Prepared | DataError = job.result()
                except DataError as error:
                    prepared = error
                if not first:
                    result.timing.waited_s += time.perf_counter() - begin
                first = False
                yield source, prepared

    def _finish(self, source: Source, job: Future[dict[str, Any]], result: Result) -> None:
        record = job.result()
        self.records.add({"source": str(source.path), "name": str(source.name), **record})
        result.labelled += 1

    def _fail(self, source: Source, error: DataError, result: Result) -> None:
        result.failed[str(source.path)] = str(error)
        self.records.add({"source": str(source.path), "error": str(error)})
        self.tell(f"{error}; it is left out")
