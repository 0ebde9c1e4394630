"""The files that one label map becomes; each is whole or absent."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from nlseg.files import write_file
from nlseg.label_png import encode_label
from nlseg.visualization.painter import Painter
from nlseg.visualization.pictures import Image, Label

KINDS = ("overlay", "mask", "beside", "probabilities", "geojson", "coco")
_FOLDERS = {
    "overlay": ("overlays", ".jpg"),
    "mask": ("masks", ".png"),
    "beside": ("side_by_side", ".jpg"),
    "probabilities": ("probabilities", ".npz"),
    "geojson": ("polygons", ".geojson"),
}
_QUALITY = 92
Ring = list[list[float]]
Corner = tuple[int, int]
Sides = dict[Corner, dict[tuple[int, int], int]]


class Writer:
    """Writes the chosen files of each image below one folder.

    Args:
        folder: The output folder.
        kinds: Which of ``KINDS`` to write.
        painter: Draws the pictures.
    """

    def __init__(self, folder: Path, kinds: Sequence[str], painter: Painter) -> None:
        self.folder, self.kinds, self.painter = folder, tuple(kinds), painter

    def path(self, kind: str, name: Path) -> Path:
        """Return the file of one kind for an image of this name."""
        sub, suffix = _FOLDERS[kind]
        return self.folder / sub / f"{name}{suffix}"

    def paths(self, name: Path) -> list[Path]:
        """Return all files that an image of this name gets."""
        return [self.path(kind, name) for kind in self.kinds if kind in _FOLDERS]

    def write(
        self,
        name: Path,
        image: Image,
        label: NDArray[np.integer],
        probabilities: NDArray[np.floating] | None = None,
    ) -> dict[str, Any]:
        """Write the files of one image.

        Args:
            name: Path below the folders, without a suffix.
            image: RGB picture (H, W, 3).
            label: Classes (H, W).
            probabilities: Of each class (K, H, W); for the kind of this name.

        Returns:
            What the summary says of the image, and its COCO annotations where they are wanted.
        """
        if "mask" in self.kinds:
            self.write_mask(self.path("mask", name), label)
        if "overlay" in self.kinds:
            write_picture(self.path("overlay", name), self.painter.draw_with_legend(image, label))
        if "beside" in self.kinds:
            write_picture(self.path("beside", name), self.painter.draw_beside(image, label))
        if "probabilities" in self.kinds and probabilities is not None:
            self.write_probabilities(self.path("probabilities", name), probabilities)
        if "geojson" in self.kinds:
            write_text(self.path("geojson", name), json.dumps(self.geojson(label)))
        record: dict[str, Any] = {"size": list(label.shape), "shares": self.painter.shares(label)}
        if "coco" in self.kinds:
            record["coco"] = self.coco(label)
        return record

    def write_mask(self, file: Path, label: Label) -> None:
        """Write class indices (H, W): an indexed PNG, or 16 bit where there are more than 255."""
        write_bytes(file, encode_label(label, self.painter.palette))

    def write_probabilities(self, file: Path, probabilities: NDArray[np.floating]) -> None:
        """Write ``probabilities`` (K, H, W) float16 and ``classes`` (K,)."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            probabilities=probabilities.astype(np.float16),
            classes=np.array(self.painter.classes),
        )
        write_bytes(file, buffer.getvalue())

    def geojson(self, label: Label) -> dict[str, Any]:
        """Return the regions of each class but background as GeoJSON polygons, in px (x, y)."""
        features = [
            {
                "type": "Feature",
                "properties": {"class": self.painter.classes[k], "index": k},
                "geometry": {"type": "Polygon", "coordinates": rings},
            }
            for k, rings in self._regions(label)
        ]
        return {"type": "FeatureCollection", "features": features}

    def coco(self, label: Label) -> list[dict[str, Any]]:
        """Return the regions as COCO annotations with run lengths, so that holes are kept."""
        annotations = []
        for k in self._drawn_classes(label):
            count, regions = cv2.connectedComponents((label == k).astype(np.uint8))
            for i in range(1, count):
                mask = regions == i
                rows, columns = np.nonzero(mask)
                top, left = int(rows.min()), int(columns.min())
                box = [left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1]
                annotations.append(
                    {
                        "category_id": k + 1,
                        "bbox": box,
                        "area": int(mask.sum()),
                        "iscrowd": 1,
                        "segmentation": {"size": list(label.shape), "counts": run_lengths(mask)},
                    }
                )
        return annotations

    def _drawn_classes(self, label: Label) -> list[int]:
        present = np.unique(label)
        background = self.painter.is_background
        return [int(k) for k in present if 0 <= k < len(background) and not background[k]]

    def _regions(self, label: Label) -> Iterator[tuple[int, list[Ring]]]:
        for k in self._drawn_classes(label):
            for rings in polygons(label == k):
                yield k, rings


def polygons(mask: NDArray[np.bool_]) -> Iterator[list[Ring]]:
    """Walk over the 4-connected regions of a mask (H, W) as rings of (x, y) in px.

    Rings run along the borders of pixels, so that a region of one pixel is a square of side 1; each
    is closed. The outer ring comes first, then the holes.
    """
    count, regions = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    rings: list[tuple[list[Ring], list[Ring]]] = [([], []) for _ in range(count)]
    for corners, region in _borders(regions):
        x, y = np.array(corners, float).T
        area = float(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1]))
        rings[region][0 if area > 0 else 1].append([[float(a), float(b)] for a, b in corners])
    for outer, holes in rings[1:]:
        yield [*outer, *holes]


def _sides(regions: NDArray[np.integer]) -> Sides:
    """Collect the sides of pixels between a region and what is not: corner, direction, region."""
    padded = np.pad(regions, 1)
    sides: Sides = {}
    for dy, dx, way in ((-1, 0, (1, 0)), (1, 0, (-1, 0)), (0, -1, (0, -1)), (0, 1, (0, 1))):
        beside = np.roll(padded, (-dy, -dx), (0, 1))[1:-1, 1:-1]
        rows, columns = np.nonzero((regions > 0) & (beside == 0))
        # the corner of the pixel where its side begins, clockwise
        starts = (columns + (dy == 1 or dx == 1), rows + (dy == 1 or dx == -1))
        for x, y, region in zip(*starts, regions[rows, columns], strict=True):
            sides.setdefault((int(x), int(y)), {})[way] = int(region)
    return sides


def _borders(regions: NDArray[np.integer]) -> Iterator[tuple[list[Corner], int]]:
    """Walk along all borders, with the region on the right hand: closed corners, and the region."""
    after = _sides(regions)
    while after:
        first = next(iter(after))
        start, region = after[first].popitem()
        corners, corner, way = [first], first, start
        while True:
            corner = (corner[0] + way[0], corner[1] + way[1])
            ways = after.get(corner, {})
            open_ways = {*ways, start} if corner == first else set(ways)
            right = (-way[1], way[0])  # keeps regions apart that touch in a corner
            turned = right if right in open_ways else way if way in open_ways else None
            turned = (way[1], -way[0]) if turned is None else turned
            if turned != way:
                corners.append(corner)
            if corner == first and turned == start:
                break
            del ways[turned]
            if not ways:
                del after[corner]
            way = turned
        if not after.get(first, True):
            del after[first]
        yield [*corners, corners[0]] if corners[-1] != first else corners, region


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """Return COCO's uncompressed run lengths of a mask (H, W): column by column, zeros first."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff(np.concatenate(([0], changes, [flat.size]))).tolist()
    return [0, *lengths] if flat.size and flat[0] else lengths


def write_picture(file: Path, picture: Image) -> None:
    """Write an RGB picture (H, W, 3) in the format of the file's suffix."""
    options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY] if file.suffix == ".jpg" else []
    ok, data = cv2.imencode(file.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    assert ok
    write_bytes(file, data.tobytes())


def write_text(file: Path, text: str) -> None:
    """Write a text file."""
    write_bytes(file, text.encode())


def write_bytes(file: Path, data: bytes) -> None:
    """Write a file that is whole or absent, making its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, data)


def write_summary(
    file: Path, records: Iterable[Mapping[str, Any]], classes: Sequence[str]
) -> dict[str, int]:
    """Write one row an image: file, size, share of each class, or why it failed.

    Returns:
        How many were labelled and how many failed.
    """
    counts = {"labelled": 0, "failed": 0}
    buffer = io.StringIO()
    rows = csv.writer(buffer)
    rows.writerow(["file", "height", "width", *classes, "error"])
    for record in records:
        if "error" in record:
            counts["failed"] += 1
            rows.writerow([record["source"], "", "", *("" for _ in classes), record["error"]])
            continue
        counts["labelled"] += 1
        shares = [f"{record['shares'].get(name, 0.0):.6f}" for name in classes]
        rows.writerow([record["source"], *record["size"], *shares, ""])
    write_text(file, buffer.getvalue())
    return counts


def write_coco(file: Path, records: Iterable[Mapping[str, Any]], classes: Sequence[str]) -> None:
    """Write the annotations of all images as one COCO file."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for record in records:
        if "coco" not in record:
            continue
        height, width = record["size"]
        images.append(
            {"id": len(images) + 1, "file_name": record["source"], "height": height, "width": width}
        )
        for annotation in record["coco"]:
            number = len(annotations) + 1
            annotations.append({"id": number, "image_id": len(images), **annotation})
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(classes)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_text(file, json.dumps(content))
