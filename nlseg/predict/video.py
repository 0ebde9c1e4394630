"""Label the frames of a video: same frame rate, size and number of frames."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from nlseg.errors import DataError
from nlseg.predict.labeller import Network, Preparer
from nlseg.predict.outputs import Writer
from nlseg.predict.sources import Source

_CODEC = "mp4v"


@dataclass(frozen=True)
class VideoFacts:
    """What a video file says about itself.

    Args:
        frames: Number of frames; 0 where the file does not say.
        rate: Frames a second.
        size: Height and width in px.
    """

    frames: int
    rate: float
    size: tuple[int, int]


def open_video(path: Path) -> tuple[Any, VideoFacts]:
    """Open a video.

    Raises:
        DataError: It cannot be decoded.
    """
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise DataError(f"{path}: cannot be decoded as a video by this OpenCV")
    height, width = (
        int(capture.get(key)) for key in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH)
    )
    rate = float(capture.get(cv2.CAP_PROP_FPS)) or 25.0
    return capture, VideoFacts(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), rate, (height, width))


def frames_of(capture: Any) -> Iterator[NDArray[np.uint8]]:
    """Walk over the frames, BGR (H, W, 3), until the file ends or breaks off."""
    while True:
        there, frame = capture.read()
        if not there:
            return
        yield frame


class VideoLabeller:
    """Labels videos.

    Args:
        preparer: Runs the test pipeline on frames.
        network: Labels them.
        writer: Knows folders, kinds and colours; pictures become a video, masks a PNG each.
        every: Label each ``every``-th frame; those between keep its labels.
        smooth: Weight of the past in the running mean of probabilities, in [0, 1).
        tell: Called with one line of warning.
    """

    def __init__(
        self, preparer: Preparer, network: Network, writer: Writer, *, every: int, smooth: float,
        tell: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.preparer, self.network, self.writer = preparer, network, writer
        self.every, self.smooth, self.tell = every, smooth, tell

    def run(self, source: Source, step: Callable[[], object]) -> dict[str, Any]:
        """Label a video.

        Args:
            source: The file.
            step: Called after each frame.

        Returns:
            What the summary says of it: size, mean shares, number of frames.

        Raises:
            DataError: Not one frame can be decoded.
        """
        capture, facts = open_video(source.path)
        sinks: dict[str, _Sink] = {
            kind: _Sink(self.writer.path(kind, source.name).with_suffix(".mp4"), facts.rate)
            for kind in ("overlay", "beside")
            if kind in self.writer.kinds
        }
        shares: dict[str, float] = {}
        number, label, mean = 0, None, None
        try:
            for frame in frames_of(capture):
                if number % self.every == 0 or label is None:
                    prepared = self.preparer.take(frame, f"{source.path} frame {number}")
                    label, probabilities = self.network.label(prepared)
                    if self.smooth and probabilities is not None:
                        mean = self._blend(mean, probabilities)
                        label = mean.argmax(0)
                image = np.ascontiguousarray(frame[..., ::-1])
                self._write(source, sinks, number, image, label)
                for name, share in self.writer.painter.shares(label).items():
                    shares[name] = shares.get(name, 0.0) + share
                number += 1
                step()
        finally:
            capture.release()
            for sink in sinks.values():
                sink.close(keep=number > 0)
        if number == 0:
            raise DataError(f"{source.path}: not one frame can be decoded")
        if number < facts.frames:
            self.tell(
                f"{source.path}: breaks off after {number} of {facts.frames} frames; what is there "
                "is labelled"
            )
        mean_shares = {name: share / number for name, share in shares.items()}
        return {"size": list(facts.size), "shares": mean_shares, "frames": number}

    def _blend(
        self, mean: NDArray[np.float32] | None, new: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        if mean is None or mean.shape != new.shape:
            return new
        blended: NDArray[np.float32] = self.smooth * mean + (1 - self.smooth) * new
        return blended

    def _write(
        self, source: Source, sinks: dict[str, "_Sink"], number: int, image: Any, label: Any
    ) -> None:
        painter = self.writer.painter
        if "overlay" in sinks:
            sinks["overlay"].add(painter.draw(image, label, captions=False))
        if "beside" in sinks:
            drawn = painter.draw(image, label, captions=False)
            sinks["beside"].add(np.concatenate((image, drawn), axis=1))
        if "mask" in self.writer.kinds:
            file = self.writer.path("mask", source.name / f"{number:06d}")
            self.writer.write_mask(file, label)


class _Sink:
    """A video that gets its name when it is whole."""

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate = path, rate
        self.temporary = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
        self._writer: Any = None

    def add(self, picture: NDArray[np.uint8]) -> None:
        """Add an RGB picture (H, W, 3)."""
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            code = cv2.VideoWriter_fourcc(*_CODEC)  # type: ignore[attr-defined]
            size = (picture.shape[1], picture.shape[0])
            self._writer = cv2.VideoWriter(str(self.temporary), code, self.rate, size)
            if not self._writer.isOpened():
                raise OSError(f"{self.path}: this OpenCV cannot write {_CODEC} videos")
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    def close(self, *, keep: bool) -> None:
        """Finish the file, and give it its name where it is to be kept."""
        if self._writer is not None:
            self._writer.release()
            if keep:
                os.replace(self.temporary, self.path)
            else:
                self.temporary.unlink(missing_ok=True)
