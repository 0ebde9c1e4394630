import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nlseg.ops.resize import axis_matrix, resize

torch.set_num_threads(1)
CPU = torch.device("cpu")
LENGTHS = st.integers(1, 12)


def bilinear_by_hand(values, m, align_corners):
    """Resize a list to m values with the textbook formula."""
    n, out = len(values), []
    for i in range(m):
        if align_corners:
            x = i * (n - 1) / (m - 1) if m > 1 else 0.0
        else:
            x = max((i + 0.5) * n / m - 0.5, 0.0)
        left = min(int(x), n - 1)
        right = min(left + 1, n - 1)
        out.append(values[left] * (1 - (x - left)) + values[right] * (x - left))
    return out


def test_two_pixels_become_four_by_hand():
    x = torch.tensor([[[[0.0, 4.0]]]])
    assert resize(x, (1, 4), align_corners=False).flatten().tolist() == [0.0, 1.0, 3.0, 4.0]
    wide = resize(x, (1, 4), align_corners=True).flatten().tolist()
    assert wide == pytest.approx([0.0, 4 / 3, 8 / 3, 4.0])


def test_maps_of_the_wanted_size_come_back_as_they_are():
    x = torch.randn(1, 2, 3, 4)
    assert resize(x, (3, 4), align_corners=True) is x


@given(n=LENGTHS, m=LENGTHS, align_corners=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_matrix_resizes_one_axis_as_the_formula_says(n, m, align_corners):
    values = torch.linspace(-1, 1, n) ** 3
    matrix = axis_matrix(n, m, align_corners, CPU)
    assert matrix.weight @ values == pytest.approx(
        bilinear_by_hand(values.tolist(), m, align_corners), abs=1e-6
    )


@given(n=LENGTHS, m=LENGTHS, align_corners=st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_band_of_a_matrix_holds_all_that_is_not_zero(n, m, align_corners):
    weight, first, last = axis_matrix(n, m, align_corners, CPU)
    for i in range(m):
        assert 0 <= last[i] - first[i] <= 1
        assert weight[i, first[i] : last[i] + 1].sum() == pytest.approx(1.0, abs=1e-6)
        assert weight[i].count_nonzero() == last[i] - first[i] + 1
    assert list(first) == sorted(first)


def test_two_matrices_make_what_interpolate_makes():
    x = torch.randn(5, 7)
    rows, columns = axis_matrix(5, 13, False, CPU).weight, axis_matrix(7, 9, False, CPU).weight
    want = F.interpolate(x[None, None], (13, 9), mode="bilinear")[0, 0]
    assert torch.allclose(rows @ x @ columns.T, want, atol=1e-6)
