"""The images that a page shows: those with the smallest and the largest share of right pixels."""

import heapq
import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from nlseg.errors import DataError
from nlseg.files import write_file
from nlseg.report.facts import ImageFacts
from nlseg.run.hooks import read_rgb
from nlseg.visualization.pictures import Image

FILE = "examples.npz"
_SHOWN_PX = 560
_MAPS = ("label", "pred", "confidence")
_UNREADABLE = (
    OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@dataclass
class Example:
    """One image of the page.

    Args:
        facts: Its counts.
        label: Labelled classes (h, w), shrunk to what the page shows.
        pred: Predicted classes (h, w).
        confidence: Largest probability (h, w) in percent, where it is known.
    """

    facts: ImageFacts
    label: NDArray[np.integer]
    pred: NDArray[np.integer]
    confidence: NDArray[np.uint8] | None = None

    @property
    def share(self) -> float:
        """Return the share of labelled pixels that are right."""
        right = sum(n for true, predicted, n in self.facts.pairs if true == predicted)
        return right / max(1, sum(n for _, _, n in self.facts.pairs))

    def image(self) -> Image | None:
        """Read its file as RGB (h, w, 3), shrunk like the maps; None where it is gone."""
        if not Path(self.facts.image).is_file():
            return None
        try:
            return shrunk(read_rgb(self.facts.image))
        except DataError:
            return None


@dataclass(order=True)
class _Kept:
    """An example, ordered by how much it is wanted; of equal ones the later name is kept."""

    wanted: float
    image: str
    example: Example = field(compare=False)


class Examples:
    """Keeps the worst and the best images of those that it is offered, in any order.

    Args:
        number: How many of each.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._kept: dict[str, list[_Kept]] = {"worst": [], "best": []}

    def offer(
        self, facts: ImageFacts, label: NDArray[Any], pred: NDArray[Any],
        confidence: NDArray[np.float32] | None = None,
    ) -> None:  # fmt: skip
        """Keep an image if it is among the worst or the best so far.

        Args:
            facts: Its counts.
            label: Labelled classes (H, W).
            pred: Predicted classes (H, W).
            confidence: Largest probability (H, W), where it is known.
        """
        one = Example(facts, label, pred)
        if not any(self._wants(*entry) for entry in self._entries(one)):
            return
        one.label, one.pred = shrunk(label), shrunk(pred)
        if confidence is not None:
            one.confidence = shrunk(np.rint(100 * confidence).astype(np.uint8))
        self.add(one)

    def add(self, one: Example) -> None:
        """Keep an example that is shrunk already if it is among the worst or the best so far."""
        for heap, kept in self._entries(one):
            if self._wants(heap, kept):
                heapq.heappush(heap, kept)
                if len(heap) > self.number:
                    heapq.heappop(heap)

    def _entries(self, one: Example) -> Iterator[tuple[list[_Kept], _Kept]]:
        share, name = one.share, one.facts.image
        yield self._kept["worst"], _Kept(-share, name, one)
        yield self._kept["best"], _Kept(share, name, one)

    def _wants(self, heap: list[_Kept], kept: _Kept) -> bool:
        return len(heap) < self.number or bool(heap and kept > heap[0])

    def chosen(self) -> dict[str, list[Example]]:
        """Return the examples by heading, the most wanted first."""
        return {
            heading: [kept.example for kept in sorted(heap, reverse=True)]
            for heading, heap in self._kept.items()
        }

    def save(self, file: Path) -> None:
        """Write the examples, without their images."""
        examples = list(self)
        arrays = {
            f"{number}_{name}": getattr(one, name)
            for number, one in enumerate(examples)
            for name in _MAPS
            if getattr(one, name) is not None
        }
        head = {"number": self.number, "facts": [asdict(one.facts) for one in examples]}
        arrays["head"] = np.frombuffer(json.dumps(head).encode(), np.uint8)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_file(file, buffer.getbuffer())

    @classmethod
    def read(cls, file: Path) -> "Examples":
        """Read what :meth:`save` wrote.

        Raises:
            DataError: The file holds something else.
        """
        try:
            with np.load(file, allow_pickle=False) as stored:
                head = json.loads(stored["head"].tobytes())
                found = cls(head["number"])
                for number, facts in enumerate(head["facts"]):
                    maps = [stored.get(f"{number}_{name}") for name in _MAPS]
                    found.add(Example(ImageFacts(**facts), *maps))
        except _UNREADABLE as error:
            raise DataError(f"{file}: holds no examples of a report ({error})") from error
        return found

    def __iter__(self) -> Iterator[Example]:
        """Go over all examples, each once."""
        kept = {id(one): one for examples in self.chosen().values() for one in examples}
        return iter(kept.values())


def shrunk(picture: NDArray[Any]) -> NDArray[Any]:
    """Shrink a picture (H, W, 3) or a map (H, W) to what the page shows.

    A map keeps its values: those of bytes stay bytes, others become int16.
    """
    of_bytes = picture.ndim == 3 or picture.dtype == np.uint8
    picture = picture.astype(np.uint8 if of_bytes else np.int16)
    scale = _SHOWN_PX / max(picture.shape[:2])
    if scale >= 1:
        return picture
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    kind = cv2.INTER_AREA if picture.ndim == 3 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(picture, size, interpolation=kind))
