"""The report as one HTML page with all pictures inside."""

import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from nlseg.files import write_file
from nlseg.report.analysis import Analysis, analyse
from nlseg.report.examples import Example
from nlseg.report.facts import ImageFacts
from nlseg.run.symptoms import read_notes
from nlseg.visualization.pages import render
from nlseg.visualization.painter import Painter
from nlseg.visualization.pictures import Image
from nlseg.visualization.plots import (
    as_picture,
    draw_curves,
    plot_calibration,
    plot_confusion,
    style,
)

_MOST_CLASSES = 60
_CURVES = ("mIoU", "loss")


def write_report(
    file: Path,
    facts: Sequence[ImageFacts],
    meta: Mapping[str, Any],
    *,
    examples: Mapping[str, Sequence[Example]] | None = None,
    run_folder: Path | None = None,
) -> Analysis:
    """Write the page.

    Args:
        file: Where to.
        facts: Of each image.
        meta: ``classes``, ``palette`` and ``config``, the config's name; ``command``,
            ``config_text`` and ``environment`` of the evaluation where they are known.
        examples: Images to show, by heading.
        run_folder: Its curves are drawn, and what was noted of it is told, where there is some.
    """
    analysis = analyse(facts, meta["classes"])
    painter = Painter(meta["classes"], meta.get("palette"), 0.6)
    chosen = _most_frequent(analysis.counts)
    names = [painter.classes[k] for k in chosen]
    counts = analysis.counts[np.ix_(chosen, chosen)]
    pictures = {"Confusion, share of each labelled class": plot_confusion(counts, names, title="")}
    if np.isfinite(analysis.calibration).any():
        caption = "Calibration: confidence against accuracy"
        pictures[caption] = plot_calibration(analysis.calibration)
    curves = _curves(run_folder)
    if curves is not None:
        pictures["Curves of the run"] = curves
    text = render(
        "report/report.html",
        title=f"Report: {meta.get('config', 'test')}",
        created=time.strftime("%Y-%m-%d %H:%M"),
        images=len(facts),
        pixels=int(analysis.counts.sum()),
        analysis=analysis,
        rows=class_rows(analysis, painter),
        pictures=pictures,
        confusion={"names": names, "counts": counts.tolist()},
        examples={name: _cells(chosen, painter) for name, chosen in (examples or {}).items()},
        config_text=meta.get("config_text", ""),
        environment=meta.get("environment") or {},
        command=meta.get("command", ""),
        notes=[] if run_folder is None else read_notes(run_folder),
        of_images=analysis.image_scores,
    )  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, text)
    return analysis


def class_rows(analysis: Analysis, painter: Painter) -> list[dict[str, Any]]:
    """Return one row a class for the table."""
    return [
        {
            "name": name,
            "colour": painter.palette[k].tolist(),
            "interval": analysis.iou_intervals[k],
            **{key: float(values[k]) for key, values in analysis.per_class.items()},
        }
        for k, name in enumerate(analysis.classes)
    ]


def _most_frequent(counts: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return the classes that a confusion matrix is shown of, in their order."""
    frequent = np.argsort(-(counts.sum(0) + counts.sum(1)), kind="stable")[:_MOST_CLASSES]
    return np.sort(frequent)


def _curves(run_folder: Path | None) -> Image | None:
    from nlseg.compare.run_log import find_scalars, read_runs
    from nlseg.errors import UserError

    if run_folder is None:
        return None
    try:
        runs = read_runs([find_scalars(run_folder)], [run_folder.name])
        with style():
            return as_picture(draw_curves(runs, _CURVES, title="", smooth=None, size=(180, 760)))
    except (UserError, OSError):
        return None


def _cells(examples: Sequence[Example], painter: Painter) -> list[dict[str, Any]]:
    cells = []
    for one in examples:
        image = one.image()
        if image is None or image.shape[:2] != one.label.shape:
            continue
        pictures = {
            "image": image,
            "label": painter.draw(image, one.label, captions=False),
            "prediction": painter.draw(image, one.pred),
            "errors": errors_of(image, one.label, one.pred),
        }
        if one.confidence is not None:
            pictures["confidence (yellow: sure)"] = shades_of(one.confidence)
        cells.append({"name": one.facts.image, "share": one.share, "pictures": pictures})
    return cells


def errors_of(image: Image, label: NDArray[np.integer], pred: NDArray[np.integer]) -> Image:
    """Draw wrong pixels red over an image (h, w, 3) in grey; ignored ones are dark."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].repeat(3, 2)
    picture: Image = (grey // 2 + 90).astype(np.uint8)
    ignored = (label < 0) | (label >= 255)
    picture[(label != pred) & ~ignored] = (215, 48, 39)
    picture[ignored] = grey[ignored] // 3
    return picture


def shades_of(confidence: NDArray[np.uint8]) -> Image:
    """Draw confidence (h, w) in percent; 20 % and less are darkest."""
    shades = np.uint8(np.rint((np.clip(confidence, 20, 100) - 20) * (255 / 80)))
    return np.asarray(cv2.applyColorMap(shades, cv2.COLORMAP_VIRIDIS)[..., ::-1])


def environment() -> dict[str, str]:
    """Return versions and machine, for the end of the page."""
    import mmengine
    import torch

    import nlseg

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "nlseg": nlseg.__version__, "Python": platform.python_version(),
        "PyTorch": torch.__version__, "mmengine": mmengine.__version__, "GPU": gpu,
    }  # fmt: skip
