"""Charts: curves of runs, confusion matrices, scores of settings. matplotlib is imported on use."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from nlseg.errors import UserError
from nlseg.visualization.pictures import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 100
Scalars = Sequence[Mapping[str, Any]]
"""Scalars of a run: dicts with ``step`` and numbers by name, in order of steps."""
_STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": DPI,
    "font.size": 9.0,
    "grid.color": "#e2e5ea",
    "legend.frameon": False,
    "text.parse_math": False,  # a name may hold dollar signs
}


@contextmanager
def style() -> Iterator[None]:
    """Draw in the style of all charts, whatever the user's own matplotlibrc says."""
    import matplotlib as mpl
    from cycler import cycler

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        lines = cycler(linestyle=["-", "--", ":"])  # after ten lines colours come again
        mpl.rcParams["axes.prop_cycle"] = lines * mpl.rcParams["axes.prop_cycle"]
        yield


def new_figure(height: float, width: float) -> "Figure":
    """Make a figure of a size in px, which is drawn by Agg and needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / DPI, height / DPI), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def as_picture(figure: "Figure", *, fit: bool = False) -> Image:
    """Draw a figure.

    Args:
        figure: What to draw.
        fit: Cut the picture to what is drawn, also beyond the figure's edges.

    Returns:
        RGB picture (H, W, 3).
    """
    file = BytesIO()
    figure.savefig(file, format="png", dpi=DPI, bbox_inches="tight" if fit else None)
    with PillowImage.open(file) as picture:
        return np.asarray(picture.convert("RGB"))


def write_figure(figure: "Figure", file: Path) -> None:
    """Write a figure in the format of the file's suffix, making its folder.

    Raises:
        UserError: If charts cannot be written in this format.
    """
    formats = sorted(figure.canvas.get_supported_filetypes())
    if file.suffix[1:].lower() not in formats:
        raise UserError(f"{file}: give a file that ends in one of .{', .'.join(formats)}")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=DPI)


class Series(NamedTuple):
    """A line: its name, and its points in order. Points that are not finite leave a gap."""

    name: str
    x: list[float]
    y: list[float]


def series_of(run: Scalars, key: str, name: str, smooth: int = 1) -> Series:
    """Take one scalar out of a run.

    Args:
        run: Its scalars.
        key: Name of the scalar.
        name: What to call the line.
        smooth: Average over this many points, the last of which gives the step.
    """
    found = [entry for entry in run if isinstance(entry.get(key), int | float)]
    x = [float(entry.get("step", entry.get("iter", 0))) for entry in found]
    y = np.array([float(entry[key]) for entry in found])
    if smooth > 1 and len(y) >= smooth:
        y = np.convolve(y, np.ones(smooth) / smooth, "valid")
        x = x[smooth - 1 :]
    return Series(name, x, [value if isfinite(value) else float("nan") for value in y.tolist()])


def plot_curves(
    runs: Mapping[str, Scalars],
    out_file: str | Path | None = None,
    *,
    keys: Sequence[str] = ("mIoU", "loss"),
    title: str = "",
    smooth: int | None = None,
    size: tuple[int, int] = (420, 760),
) -> Image:
    """Draw one chart below the other, one a scalar, with a line for every run.

    Args:
        runs: Name of a run -> its scalars, as ``run.logs.scalars.read_scalars`` returns them.
        out_file: Picture file to write.
        keys: The scalars.
        title: Of the first chart.
        smooth: Average over this many points; None for as many as leave about 200.
        size: Height and width of each chart in px; a legend of several rows makes it higher.

    Returns:
        RGB picture (H, W, 3).

    Raises:
        UserError: If no run has one of the scalars, or the file cannot be of that format.
    """
    with style():
        figure = draw_curves(runs, keys, title=title, smooth=smooth, size=size)
        if out_file is not None:
            write_figure(figure, Path(out_file))
        return as_picture(figure)


def draw_curves(
    runs: Mapping[str, Scalars],
    keys: Sequence[str],
    *,
    title: str,
    smooth: int | None,
    size: tuple[int, int],
) -> "Figure":
    """Draw what :func:`plot_curves` describes, in the present style."""
    lines = {key: [_smoothed(run, key, name, smooth) for name, run in runs.items()] for key in keys}
    for key, found in lines.items():
        if not any(line.x for line in found):
            named = ", ".join(sorted({k for run in runs.values() for entry in run for k in entry}))
            raise UserError(f"there is no {key!r} in these logs; there are {named}")
    figure = new_figure(size[0] * len(keys), size[1])
    charts = figure.subplots(len(keys), sharex=True, squeeze=False)[:, 0]
    for axes, (key, found) in zip(charts, lines.items(), strict=True):
        for line in found:
            marker = "o" if len(line.x) <= 60 else ""
            axes.plot(line.x, line.y, marker=marker, markersize=4, linewidth=1.6)
        axes.set_ylabel(f"{key}, %" if key[:1] in ("m", "a") and key[1:2].isupper() else key)
        axes.xaxis.set_major_formatter("{x:,.10g}")
        axes.tick_params(labelbottom=True)
    charts[-1].set_xlabel("iteration")
    figure.suptitle(title)
    if len(runs) > 1:
        _add_legend(figure, charts[0].get_lines(), list(runs))
    return figure


def _smoothed(run: Scalars, key: str, name: str, smooth: int | None) -> Series:
    if smooth is None:
        count = sum(key in entry for entry in run)
        smooth = max(1, count // 200) if count > 400 else 1
    return series_of(run, key, name, smooth)


def _add_legend(figure: "Figure", lines: Sequence[Any], names: Sequence[str]) -> None:
    """Name the lines below the charts, in as few rows as fit; make the figure higher."""
    shown = [f" {name}" if name.startswith("_") else name for name in names]  # "_..." is left out
    for columns in range(len(names), 0, -1):
        legend = figure.legend(lines, shown, loc="outside lower center", ncols=columns)
        box = legend.get_window_extent()
        if columns == 1 or box.width <= figure.bbox.width:
            break
        legend.remove()
    rows = -(-len(names) // columns)
    figure.set_figheight(figure.get_figheight() + box.height / DPI * (rows - 1) / rows)


def row_shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Divide every row of counts (K, K) by its sum; rows without pixels become NaN."""
    total = counts.sum(1, keepdims=True).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(counts / np.where(total > 0, total, np.nan))


def plot_confusion(
    counts: NDArray[np.int64], classes: Sequence[str], *, title: str = "", cell: int | None = None
) -> Image:
    """Draw what share of every true class is predicted as which class.

    Args:
        counts: Pixels (K, K), rows true, columns predicted.
        classes: Names of the classes.
        title: Written on top.
        cell: Size of a field in px; None for one that fits numbers, or a smaller one with many
            classes.

    Returns:
        RGB picture (H, W, 3). Percentages are written into fields of at least 30 px.
    """
    with style():
        return as_picture(draw_confusion(counts, classes, title=title, cell=cell), fit=True)


def draw_confusion(
    counts: NDArray[np.int64], classes: Sequence[str], *, title: str, cell: int | None
) -> "Figure":
    """Draw what :func:`plot_confusion` describes, in the present style."""
    from matplotlib.colors import PowerNorm

    num_classes = len(classes)
    cell = cell or (46 if num_classes <= 20 else 34 if num_classes <= 30 else 8)
    shares = 100 * row_shares(counts)
    figure = new_figure(num_classes * cell, num_classes * cell)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))  # a field has its size in px, names are outside
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.6, 0, 100))
    axes.set_facecolor("#eeeeee")  # rows without pixels
    axes.grid(False)
    every = max(1, -(-10 // cell))  # with small fields only every second name fits
    places = range(0, num_classes, every)
    names = [classes[i] for i in places]
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    font = 9.0 if cell >= 30 else 6.0
    axes.set_xticks(places, names, rotation=90, fontsize=font)
    axes.set_yticks(places, names, fontsize=font)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted class", labelpad=8)
    axes.set_ylabel("true class", labelpad=8)
    axes.set_title(title, fontsize=12, pad=10)
    bar = axes.inset_axes((1 + 12 / (num_classes * cell), 0, 12 / (num_classes * cell), 1))
    figure.colorbar(image, cax=bar, ticks=[0, 5, 20, 50, 100], label="% of the true class")
    for side in (*axes.spines.values(), *bar.spines.values()):
        side.set_visible(False)
    for row, column in np.argwhere(shares >= 0.05) if cell >= 30 else ():
        share = float(shares[row, column])
        text = f"{share:.0f}" if share >= 10 else f"{share:.1f}"
        colour = "white" if share > 35 else "black"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    return figure


def plot_calibration(bins: NDArray[np.float64]) -> Image:
    """Draw accuracy against confidence, with the share of pixels of each bin below.

    Args:
        bins: Pixels, accuracy and mean confidence of each bin (B, 3); NaN where a bin is empty.

    Returns:
        RGB picture (H, W, 3).
    """
    with style():
        figure = new_figure(420, 460)
        upper, lower = figure.subplots(2, sharex=True, height_ratios=[3, 1])
        edges = np.linspace(0, 1, len(bins) + 1)
        width = edges[1] - edges[0]
        upper.plot([0, 1], [0, 1], color="#888888", linestyle="--", linewidth=1)
        upper.bar(edges[:-1], np.nan_to_num(bins[:, 1]), width, align="edge", edgecolor="white")
        upper.plot(bins[:, 2], bins[:, 1], "o", markersize=3, color="black")
        upper.set_ylabel("accuracy")
        upper.set_ylim(0, 1)
        shares = np.nan_to_num(bins[:, 0]) / max(1.0, float(np.nansum(bins[:, 0])))
        lower.bar(edges[:-1], shares, width, align="edge", edgecolor="white", color="#888888")
        lower.set_ylabel("share")
        lower.set_xlabel("confidence")
        lower.set_xlim(0, 1)
        return as_picture(figure)


class ScoreGroup(NamedTuple):
    """Scores of one setting: the name, a number to place it by, and its repetitions."""

    name: str
    place: float | None
    scores: Sequence[float]
    confidence: float


def plot_scores(
    settings: Sequence[ScoreGroup], out_file: str | Path, *, x_label: str, y_label: str
) -> None:
    """Draw means with confidence and single scores: against one number, else side by side.

    Args:
        settings: What to draw, each with at least one score.
        out_file: Picture file to write.
        x_label: What the places are, where all settings have one.
        y_label: Name of the score.
    """
    with style():
        write_figure(draw_scores(settings, x_label, y_label), Path(out_file))


def draw_scores(settings: Sequence[ScoreGroup], x_label: str, y_label: str) -> "Figure":
    """Draw what :func:`plot_scores` describes, in the present style."""
    figure = new_figure(400, max(500, 120 * len(settings)))
    axes = figure.subplots()
    placed = [s.place for s in settings if s.place is not None]
    by_number = len(placed) == len(settings) > 0
    places = placed if by_number else [float(i) for i in range(len(settings))]
    means = [float(np.mean(s.scores)) for s in settings]
    bars = [s.confidence if isfinite(s.confidence) else 0.0 for s in settings]
    for place, setting in zip(places, settings, strict=True):
        axes.plot([place] * len(setting.scores), setting.scores, ".", color="black", zorder=3)
    line = "-" if by_number else ""
    axes.errorbar(places, means, yerr=bars, marker="o", capsize=4, linestyle=line, zorder=2)
    if by_number:
        axes.set_xlabel(x_label)
    else:
        axes.set_xticks(places, [s.name for s in settings], rotation=30, ha="right")
        axes.set_xlim(-0.5, max(1, len(settings)) - 0.5)
    axes.set_ylabel(y_label)
    return figure
