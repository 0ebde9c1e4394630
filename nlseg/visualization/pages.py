"""Self-contained HTML pages: templates of jinja2, with all pictures inside the file."""

import base64
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

from nlseg.visualization.pictures import Cell, Image

if TYPE_CHECKING:
    from jinja2 import Environment

PACKAGE = Path(__file__).parents[1]
"""Folder that templates are named from, such as ``doctor/report.html``."""


def render(template: str, **values: Any) -> str:
    """Fill in a template; all text is escaped, and a value that is not given is an error.

    Templates extend ``visualization/page.html``, which brings the style for light and dark, and
    import ``visualization/parts.html`` for bars, colours and pictures.

    Args:
        template: Path below the package.
        **values: What the template uses.
    """
    return _templates().get_template(template).render(values)


@cache
def _templates() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["data_url"] = data_url
    return templates


def data_url(picture: Image, quality: int = 85) -> str:
    """Return an RGB picture (H, W, 3) as a JPEG inside a URL."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def browse_page(
    rows: Sequence[Sequence[Cell]],
    *,
    title: str,
    subtitle: str = "",
    classes: Sequence[str] = (),
    palette: Image | None = None,
) -> str:
    """Draw the data browser's samples as one HTML document with all pictures inside.

    Args:
        rows: Pictures of every sample; the first caption of a row names it.
        title: Heading.
        subtitle: A line below.
        classes: Names for the legend.
        palette: RGB colours (K, 3) of the classes.
    """
    colours = [] if palette is None else palette.tolist()
    legend = list(zip(classes, colours, strict=palette is not None))
    return render(
        "visualization/browse.html", title=title, subtitle=subtitle, legend=legend, rows=rows
    )
