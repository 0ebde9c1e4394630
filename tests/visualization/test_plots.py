import itertools
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from nlseg.compare.confusion_report import write_confusion_csv
from nlseg.errors import UserError
from nlseg.visualization.pictures import Cell, contact_sheet, fit, shorten, text_size
from nlseg.visualization.plots import (
    DPI,
    ScoreGroup,
    Series,
    draw_confusion,
    draw_curves,
    draw_scores,
    plot_confusion,
    plot_curves,
    row_shares,
    series_of,
    style,
)

RUN = [{"step": i, "loss": float(i)} for i in range(1, 6)] + [{"step": 5, "mIoU": 40.0}]


def curves(runs, keys, title="", size=(300, 400)):
    with style():
        figure = draw_curves(runs, keys, title=title, smooth=None, size=size)
        figure.canvas.draw()
    return figure


def test_lines_are_the_scalars_and_few_points_get_dots():
    long = [{"step": i, "loss": 0.5} for i in range(61)]
    (axes,) = curves({"a": RUN, "b": long}, ["loss"]).axes
    short, other = axes.get_lines()
    assert short.get_xydata().tolist() == [[i, i] for i in range(1, 6)]
    assert (short.get_marker(), other.get_marker()) == ("o", "")
    assert axes.get_ylabel() == "loss"
    assert curves({"a": RUN}, ["mIoU"]).axes[0].get_ylabel() == "mIoU, %"


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_points_that_are_not_finite_leave_a_gap(odd):
    run = [{"step": i, "loss": odd if 40 <= i <= 60 else 1.0 + i} for i in range(101)]
    (axes,) = curves({"a": run}, ["loss"]).axes
    drawn = axes.get_lines()[0].get_ydata()
    assert np.flatnonzero(np.isnan(drawn)).tolist() == list(range(40, 61))
    assert axes.get_ylim()[1] < 110


def test_scalars_are_smoothed_backwards():
    smooth = series_of(RUN, "loss", "a", smooth=3)
    assert smooth.x == [3, 4, 5]
    assert smooth.y == pytest.approx([2, 3, 4])
    assert series_of(RUN, "mIoU", "a") == Series("a", [5], [40])


def test_curves_are_written(tmp_path):
    picture = plot_curves({"a": RUN, "b": RUN[:2]}, tmp_path / "new/c.png", size=(200, 300))
    assert picture.shape == (400, 300, 3)
    assert (tmp_path / "new/c.png").stat().st_size > 1000
    with pytest.raises(UserError, match=r"no 'mDice' in these logs; there are loss, mIoU, step"):
        plot_curves({"a": RUN}, keys=["mDice"])


def test_a_file_of_an_unknown_format_is_refused(tmp_path):
    plot_curves({"a": RUN}, tmp_path / "c.svg", keys=["loss"])
    assert "<svg" in (tmp_path / "c.svg").read_text()
    for name in ("c.xyz", "c"):
        with pytest.raises(UserError, match=rf"{name}: give a file that ends in one of .*\.png"):
            plot_curves({"a": RUN}, tmp_path / name, keys=["loss"])


def test_confusion_rows_sum_to_one():
    shares = row_shares(np.array([[3, 1], [0, 0]]))
    assert shares[0].tolist() == [0.75, 0.25]
    assert np.isnan(shares[1]).all()


def test_counts_above_8_bits_are_drawn_and_written_exactly(tmp_path):
    counts = np.array([[2**40, 0], [2**40, 2**40 + 1]])
    write_confusion_csv(tmp_path / "c.csv", counts, ["a", "b"])
    lines = (tmp_path / "c.csv").read_text().splitlines()
    assert lines == ["true \\ predicted,a,b", f"a,{2**40},0", f"b,{2**40},{2**40 + 1}"]
    with style():
        figure = draw_confusion(counts, ["a", "b"], title="", cell=40)
        figure.canvas.draw()
    picture = np.asarray(figure.canvas.buffer_rgba())
    assert picture.shape == (80, 80, 4)
    corners = [picture[40 * i + 3, 40 * j + 3, :3].sum() for i in (0, 1) for j in (0, 1)]
    full, none, half, other_half = corners
    assert full < half < none
    assert abs(int(half) - int(other_half)) < 5
    assert [text.get_text() for text in figure.axes[0].texts] == ["100", "50", "50"]


def test_true_classes_are_rows_and_classes_without_pixels_are_grey():
    with style():
        figure = draw_confusion(np.array([[4, 12], [0, 0]]), ["a", "b"], title="", cell=40)
        figure.canvas.draw()
    axes = figure.axes[0]
    assert axes.get_ylabel() == "true class"
    found = {text.get_position(): text.get_text() for text in axes.texts}
    assert found == {(0, 0): "25", (1, 0): "75"}  # column, row
    picture = np.asarray(figure.canvas.buffer_rgba())
    assert picture[60, 20, :3].tolist() == picture[60, 60, :3].tolist() == [238, 238, 238]


def test_150_classes_fit_on_a_screen():
    picture = plot_confusion(np.eye(150, dtype=np.int64), [f"class {i}" for i in range(150)])
    assert max(picture.shape) < 1500


def test_contact_sheet_holds_every_picture():
    red = np.full((10, 20, 3), (255, 0, 0), np.uint8)
    blue = np.full((30, 10, 3), (0, 0, 255), np.uint8)
    sheet = contact_sheet(
        [[Cell(red, "a"), Cell(blue, "b")], [Cell(red)]], title="t", cell_size=(40, 60)
    )
    assert sheet.shape[1] == 2 * 70 + 10
    assert ((sheet == (255, 0, 0)).all(2)).sum() == 2 * 30 * 60  # 20 x 10 grows to 60 x 30
    assert ((sheet == (0, 0, 255)).all(2)).sum() == 40 * 13


def test_fit_keeps_the_shape():
    box = fit(np.zeros((100, 50, 3), np.uint8), (40, 40))
    assert (box == 0).all(2).sum() == 40 * 20


def test_captions_are_cut_in_front():
    short = shorten("a/very/long/path/to/file.png", 80, 12)
    assert short.startswith("...")
    assert short.endswith("file.png")
    assert text_size(short, 12)[1] <= 80
    assert shorten("abc", 80, 12) == "abc"


def test_names_that_do_not_fit_in_one_row_get_several():
    names = [f"a run with a long name {i}" for i in range(5)]
    one, many = (
        plot_curves(dict.fromkeys(chosen, RUN), keys=["loss"], size=(300, 400))
        for chosen in (names[:1], names)
    )
    assert one.shape == (300, 400, 3)
    assert many.shape[0] > 300
    assert not (many[:, :3] < 100).any()  # nothing was pushed against the left border


def test_every_run_is_named_also_with_an_underscore_or_dollars():
    names = ["_a", "$b$", "c"]
    (legend,) = curves(dict.fromkeys(names, RUN), ["loss"], size=(300, 800)).legends
    texts = legend.get_texts()
    assert [text.get_text().strip() for text in texts] == names
    assert not any(text.get_parse_math() for text in texts)


def test_title_legend_and_charts_do_not_meet():
    figure = curves({"a": RUN, "b": RUN}, ["loss", "mIoU"], "a title")
    (legend,) = figure.legends
    parts = [figure._suptitle, *figure.axes, legend]
    boxes = [part.get_tightbbox() for part in parts]
    for upper, lower in itertools.pairwise(boxes):
        assert upper.y0 >= lower.y1 - 1
    assert boxes[-1].y0 >= 0


def test_charts_of_one_picture_share_their_iterations():
    run = [{"step": 5, "mIoU": 50.0}, {"step": 10, "mIoU": 60.0}, {"step": 10, "loss": 1.0}]
    run.append({"step": 100, "loss": 0.5})
    upper, lower = curves({"a": run}, ["mIoU", "loss"]).axes
    assert upper.get_xlim() == lower.get_xlim()
    assert upper.get_xlim()[1] >= 100
    assert all(label.get_visible() for label in upper.get_xticklabels())


def test_title_and_column_names_do_not_meet():
    with style():
        figure = draw_confusion(np.eye(2), ["background", "b"], title="a long title", cell=None)
        figure.canvas.draw()
    (axes, *_) = figure.axes
    name = axes.get_xticklabels()[0].get_window_extent()
    assert axes.title.get_window_extent().y0 >= axes.xaxis.label.get_window_extent().y1
    assert axes.xaxis.label.get_window_extent().y0 >= name.y1
    picture = plot_confusion(np.eye(2), ["background", "b"], title="a long title")
    assert picture.shape[1] > 200  # wide enough for the words on top


def test_scores_stand_at_their_number_or_side_by_side():
    words = [ScoreGroup("a", None, (1.0, 2.0), 0.5), ScoreGroup("b", None, (3.0,), float("nan"))]
    numbers = [ScoreGroup("", 0.5, (1.0,), float("nan")), ScoreGroup("", 1.0, (2.0,), float("nan"))]
    with style():
        (axes,) = draw_scores(words, "", "mIoU").axes
        (by_number,) = draw_scores(numbers, "lr", "mIoU").axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b"]
    singles = [line.get_xydata().tolist() for line in axes.get_lines()[:2]]
    assert singles == [[[0, 1], [0, 2]], [[1, 3]]]
    bars = [path.vertices[:, 1].tolist() for path in axes.collections[0].get_paths()]
    assert bars == [[1.0, 2.0], [3.0, 3.0]]  # 1.5 +- 0.5, and nothing known
    assert by_number.get_xlabel() == "lr"
    assert by_number.containers[0].lines[0].get_xydata().tolist() == [[0.5, 1], [1, 2]]


def test_a_users_own_style_and_display_do_not_matter(tmp_path):
    (tmp_path / "matplotlibrc").write_text("figure.dpi: 300\nbackend: TkAgg\nfont.size: 40\n")
    code = (
        "import sys; from nlseg.visualization.plots import plot_curves\n"
        "assert 'matplotlib' not in sys.modules\n"
        "runs = {'a': [{'step': 1, 'loss': 1.0}]}\n"
        "assert plot_curves(runs, 'c.png', keys=['loss'], size=(200, 300)).shape == (200, 300, 3)\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.size == (300, 200)
        assert picture.info["dpi"] == pytest.approx((DPI, DPI), abs=0.1)
