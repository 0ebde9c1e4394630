import numpy as np
import pytest

from nlseg.errors import UserError
from nlseg.visualization.chart import COLOURS, Series, line_chart, ticks
from nlseg.visualization.confusion_plot import plot_confusion, row_shares, write_confusion_csv
from nlseg.visualization.contact_sheet import Cell, contact_sheet, fit, shorten
from nlseg.visualization.curves import plot_curves, series_of
from nlseg.visualization.text import text_size

RUN = [{"step": i, "loss": float(i)} for i in range(1, 6)] + [{"step": 5, "mIoU": 40.0}]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (0.1, 0.9, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (7, 7, [6.4, 6.6, 6.8, 7, 7.2, 7.4, 7.6]),
        (-3.5, 4, [-4, -3, -2, -1, 0, 1, 2, 3, 4]),
    ],
)
def test_ticks_are_round_and_enclose(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def near(picture, colour):
    return np.abs(picture.astype(int) - colour).sum(2) < 60


def test_line_goes_from_corner_to_corner():
    picture = line_chart([Series("", [0, 100], [0, 100])], size=(300, 400))
    rows, columns = np.nonzero(near(picture, COLOURS[0]))
    # The frame is 46 px below the top, 58 above the bottom, 78 and 22 px inside left and right.
    assert abs(rows[columns == columns.min()].mean() - (300 - 58)) < 4
    assert abs(rows[columns == columns.max()].mean() - 46) < 4
    assert abs(columns.min() - 78) < 5
    assert abs(columns.max() - (400 - 22)) < 5


def test_points_that_are_no_number_leave_a_gap():
    x = list(range(101))
    y = [0.0 if i < 40 or i > 60 else float("nan") for i in x]
    picture = line_chart([Series("", x, y), Series("", [0, 100], [1, 1])], size=(300, 400))
    columns = np.nonzero(near(picture, COLOURS[0]).any(0))[0]
    assert np.diff(columns).max() == pytest.approx(0.2 * 300, abs=8)


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


def test_confusion_rows_sum_to_one():
    shares = row_shares(np.array([[3, 1], [0, 0]]))
    assert shares[0].tolist() == [0.75, 0.25]
    assert np.isnan(shares[1]).all()


def test_counts_above_8_bits_are_drawn_and_written_exactly(tmp_path):
    counts = np.array([[2**40, 0], [2**40, 2**40 + 1]])
    write_confusion_csv(tmp_path / "c.csv", counts, ["a", "b"])
    lines = (tmp_path / "c.csv").read_text().splitlines()
    assert lines == ["true \\ predicted,a,b", f"a,{2**40},0", f"b,{2**40},{2**40 + 1}"]
    picture = plot_confusion(counts, ["a", "b"], cell=40)
    side = picture.shape[0] - 20 - 2 * 40
    corners = [picture[side + 40 * i + 2, side + 40 * j + 2].sum() for i in (0, 1) for j in (0, 1)]
    full, none, half, other_half = corners
    assert full < half < none
    assert abs(int(half) - int(other_half)) < 5


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
        line_chart([Series(name, [0, 1], [0, 1]) for name in chosen], size=(300, 400))
        for chosen in (names[:1], names)
    )
    assert one.shape == (300, 400, 3)
    assert many.shape[0] > 300
    assert not (many[:, :20] < 100).any()  # nothing was pushed against the left border


def test_charts_of_one_picture_share_their_iterations():
    run = [{"step": 5, "mIoU": 50.0}, {"step": 10, "mIoU": 60.0}, {"step": 10, "loss": 1.0}]
    run.append({"step": 100, "loss": 0.5})
    upper, lower = np.split(plot_curves({"a": run}), 2)
    assert (upper[-52:-30] == lower[-52:-30]).all()  # the numbers below the axes


def test_title_and_column_names_do_not_meet():
    picture = plot_confusion(np.eye(2, dtype=np.int64), ["background", "b"], title="a long title")
    assert (picture[46:51] == 255).all()
    assert picture.shape[1] > 200  # wide enough for the words on top
