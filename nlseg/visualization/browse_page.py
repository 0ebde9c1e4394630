"""The page of the data browser: raw and augmented samples with a legend."""

from collections.abc import Sequence
from html import escape

from nlseg.visualization.contact_sheet import Cell
from nlseg.visualization.overlay import Image
from nlseg.visualization.page import figure, page, swatch


def browse_page(
    rows: Sequence[Sequence[Cell]],
    *,
    title: str,
    subtitle: str = "",
    classes: Sequence[str] = (),
    palette: Image | None = None,
) -> str:
    """Draw samples as one HTML document with all pictures inside.

    Args:
        rows: Pictures of every sample; the first caption of a row names it.
        title: Heading.
        subtitle: A line below.
        classes: Names for the legend.
        palette: RGB colours (K, 3) of the classes.
    """
    parts = [f"<h1>{escape(title)}</h1>", f'<p class="soft small">{escape(subtitle)}</p>']
    if palette is not None:
        entries = zip(classes, palette.tolist(), strict=True)
        chips = [f'<span class="chip">{swatch(c)}{escape(name)}</span>' for name, c in entries]
        parts.append(f'<p class="legend">{"".join(chips)}</p>')
    for row in rows:
        pictures = "".join(figure(cell.picture, cell.caption) for cell in row)
        parts.append(f'<div class="card grid">{pictures}</div>')
    return page(title, "\n".join(parts))
