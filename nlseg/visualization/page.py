"""Self-contained HTML pages: text, tables, bars and pictures in one file."""

import base64
from html import escape

import cv2

from nlseg.visualization.overlay import Image

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #667085; --paper: #f5f6f8; --card: #fff;
  --line: #e3e6eb; --error: #c62828; --warning: #b26a00; --note: #2f6fb0; --good: #2e7d32; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #9aa4b2; --paper: #14171c;
  --card: #1d2128; --line: #323843; --error: #ff7b72; --warning: #e3a53c; --note: #79b8ff;
  --good: #7bc47f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.45;
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 34px 0 12px; }
h3 { font-size: 15px; margin: 22px 0 8px; } p { margin: 6px 0; }
.soft { color: var(--soft); } .small { font-size: 13px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 14px 18px; margin: 12px 0; }
.error { border-left: 5px solid var(--error); } .warning { border-left: 5px solid var(--warning); }
.note { border-left: 5px solid var(--note); } .good { border-left: 5px solid var(--good); }
.chip { display: inline-block; border-radius: 999px; padding: 1px 10px; font-size: 13px;
  border: 1px solid var(--line); margin-right: 6px; color: var(--soft); background: var(--card); }
.chip.error, .chip.warning, .chip.note { border-left-width: 1px; color: #fff; }
.chip.error { background: #c62828; border-color: #c62828; }
.chip.warning { background: #b26a00; border-color: #b26a00; }
.chip.note { background: #2f6fb0; border-color: #2f6fb0; }
pre { background: var(--paper); border: 1px solid var(--line); border-radius: 7px; margin: 8px 0;
  padding: 8px 12px; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { padding: 4px 10px; text-align: left; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; } td.number, th.number { text-align: right;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
tr:last-child td { border-bottom: 0; }
.swatch { display: inline-block; width: 13px; height: 13px; border-radius: 3px; margin-right: 8px;
  vertical-align: -2px; border: 1px solid #0003; }
.bar { height: 12px; border-radius: 3px; min-width: 1px; background: #5b8def; }
.wide { width: 38%; } .legend .chip { margin: 2px 6px 2px 0; } .scroll { overflow-x: auto; }
.pictures { display: flex; flex-wrap: wrap; gap: 12px; margin-top: 10px; }
.grid { display: grid; gap: 12px; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); }
figure { margin: 0; max-width: 100%; } figure img { display: block; max-width: 100%; height: auto;
  border-radius: 6px; border: 1px solid var(--line); }
figcaption { font-size: 12px; color: var(--soft); overflow-wrap: anywhere; margin-top: 3px; }
"""


def page(title: str, body: str) -> str:
    """Wrap a body of HTML into a whole document that needs no other file."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><main>\n{body}\n</main></body></html>"
    )


def data_url(picture: Image, quality: int = 85) -> str:
    """Return an RGB picture (H, W, 3) as a JPEG inside a URL."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    _, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def figure(picture: Image, caption: str, width: int | None = None) -> str:
    """Show an RGB picture (H, W, 3) with a caption below, ``width`` px wide."""
    style = f' style="width:{width}px"' if width else ""
    alt = escape(caption, quote=True)
    return (
        f'<figure{style}><img src="{data_url(picture)}" alt="{alt}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def swatch(colour: list[int] | None) -> str:
    """Show a small box of an RGB colour; nothing for None."""
    if colour is None:
        return ""
    return f'<span class="swatch" style="background:rgb({",".join(map(str, colour))})"></span>'


def bar(share: float, colour: list[int] | None = None) -> str:
    """Show a bar that fills ``share`` in [0, 1] of its cell."""
    paint = f";background:rgb({','.join(map(str, colour))})" if colour else ""
    return f'<div class="bar" style="width:{min(1.0, share):.2%}{paint}"></div>'


def table(header: list[tuple[str, str]], rows: list[list[str]]) -> str:
    """Lay out cells of HTML.

    Args:
        header: Title and CSS class of every column.
        rows: Cells, as many a row as there are columns.
    """
    head = "".join(f'<th class="{css}">{escape(title)}</th>' for title, css in header)
    body = "".join(f"<tr>{_cells(header, row)}</tr>" for row in rows)
    table_html = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table_html}</div>'


def _cells(header: list[tuple[str, str]], row: list[str]) -> str:
    pairs = zip(header, row, strict=True)
    return "".join(f'<td class="{css}">{cell}</td>' for (_, css), cell in pairs)
