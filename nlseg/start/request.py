"""What a user asks ``nlseg start`` for."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nlseg.start.labels import Said, show_value
from nlseg.start.layout import Where


@dataclass(frozen=True)
class Request:
    """What a user asks for.

    Args:
        folder: The data.
        out: Config to write.
        seconds: Time for everything.
        where: What is said about places.
        said: What is said about values.
        classes: Names, or a file with names.
        kind: ``masks``, ``coco``, ``labelme``, ``cvat``, ``class-masks`` or
            ``object-masks``, where said.
        unlabelled: For exports: 0 or 255.
        test: Share of the test images where a split is made.
        fetch: Whether published weights may be fetched.
        binary: Level from which on masks are the thing, of two classes; None takes their values.
    """

    folder: Path
    out: Path
    seconds: float
    where: Where = field(default_factory=Where)
    said: Said = field(default_factory=Said)
    classes: str | None = None
    kind: str | None = None
    unlabelled: int = 0
    test: float = 0.2
    fetch: bool = True
    binary: float | None = None

    @property
    def files(self) -> Path:
        """Folder of lists, and of what had to be converted."""
        return self.out.with_name(f"{self.out.stem}_files")

    def as_dict(self) -> dict[str, Any]:
        """Return what makes one plan another."""
        background = self.said.background
        return {
            "folder": str(self.folder.resolve()), "seconds": self.seconds,
            "where": list(self.where), "ignore": [show_value(v) for v in self.said.ignore],
            "keep": [show_value(v) for v in self.said.keep],
            "background": "" if background is None else show_value(background),
            "classes": self.classes, "kind": self.kind, "unlabelled": self.unlabelled,
            "test": self.test, "fetch": self.fetch, "binary": self.binary,
        }  # fmt: skip
