import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nlseg.ops.logit_rows import Held, whole_map
from nlseg.ops.sliding_window import Window, WindowMean, window_grid
from tests.cases import each_case

torch.set_num_threads(1)


def test_the_published_cityscapes_setting_has_eight_windows():
    windows = window_grid((1025, 2049), (769, 769), (513, 513))
    assert len(windows) == 8
    assert sorted({w.left for w in windows}) == [0, 513, 1026, 1280]
    assert sorted({w.top for w in windows}) == [0, 256]
    assert {(w.bottom - w.top, w.right - w.left) for w in windows} == {(769, 769)}


def test_a_small_image_is_one_window():
    assert window_grid((40, 50), (64, 64), (32, 32)) == [Window(0, 40, 0, 50)]


@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    crop=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    share=st.floats(0.2, 1.0),
)
@settings(max_examples=80, deadline=None)
def test_windows_have_one_size_and_cover_every_pixel(size, crop, share):
    stride = max(int(crop[0] * share), 1), max(int(crop[1] * share), 1)
    seen = torch.zeros(size)
    for top, bottom, left, right in window_grid(size, crop, stride):
        assert bottom - top == min(crop[0], size[0])
        assert right - left == min(crop[1], size[1])
        seen[top:bottom, left:right] += 1
    assert seen.min() >= 1


@each_case("rows_at_once", [1, 4, 20])
def test_overlapping_logits_are_averaged(rows_at_once):
    windows = window_grid((20, 30), (12, 16), (8, 10))
    parts = [torch.randn(3, 12, 16) for _ in windows]
    total, count = torch.zeros(3, 20, 30), torch.zeros(20, 30)
    for (top, bottom, left, right), part in zip(windows, parts, strict=True):
        total[:, top:bottom, left:right] += part
        count[top:bottom, left:right] += 1
    sources = [(w, Held(part)) for w, part in zip(windows, parts, strict=True)]
    mean = WindowMean((20, 30), sources)
    assert torch.equal(whole_map(mean), total / count)
    read = [mean.rows(top, min(top + rows_at_once, 20)) for top in range(0, 20, rows_at_once)]
    assert torch.equal(torch.cat(read).permute(2, 0, 1), total / count)
