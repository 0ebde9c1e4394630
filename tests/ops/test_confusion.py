import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nlseg.ops import confusion
from nlseg.ops.confusion import confusion_matrix, count_pairs
from tests.cases import each_case


def slow_count(pred, label, num_classes, ignore_index):
    table = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    for p, t in zip(pred.flatten().tolist(), label.flatten().tolist(), strict=True):
        if t != ignore_index:
            row = t if 0 <= t < num_classes else num_classes
            table[row, p if 0 <= p < num_classes else num_classes] += 1
    return table


def histc_areas(pred, label, num_classes, ignore_index):
    """The three float histograms of the common way, in mmsegmentation's words."""
    keep = label != ignore_index
    pred, label = pred[keep], label[keep]

    def area(values):
        return torch.histc(values.float(), bins=num_classes, min=0, max=num_classes - 1)

    return area(pred[pred == label]), area(pred), area(label)


def test_counts_by_hand():
    pred = torch.tensor([[0, 0, 1], [1, 2, 2]])
    label = torch.tensor([[0, 1, 1], [1, 2, 255]])
    expected = [[1, 0, 0, 0], [1, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert confusion_matrix(pred, label, 4).tolist() == expected
    assert confusion_matrix(pred, label, 4).dtype == torch.int64


def test_strays_have_a_row_and_a_column():
    pred = torch.tensor([0, 1, 7, -1, 1])
    label = torch.tensor([0, 34, 1, 1, -3])
    assert count_pairs(pred, label, 2).tolist() == [[1, 0, 0], [0, 0, 2], [0, 2, 0]]
    assert confusion_matrix(pred, label, 2).tolist() == [[1, 0], [0, 0]]


@each_case("value", [256, -256, 65536, 2**40])
def test_values_beyond_a_byte_do_not_wrap_around(value):
    odd, even = torch.tensor([value, 0]), torch.tensor([0, 0])
    assert count_pairs(odd, even, 1).tolist() == [[1, 1], [0, 0]]
    assert count_pairs(even, odd, 1).tolist() == [[1, 0], [1, 0]]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 40),
    st.sampled_from([255, 0, -1, 3, 1000]),
    st.sampled_from([torch.uint8, torch.int16, torch.int32, torch.int64]),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_equals_a_slow_count(num_classes, ignore_index, dtype, wild, seed):
    rng = np.random.RandomState(seed)
    low, high = (-3, 400) if wild and dtype != torch.uint8 else (0, 256)
    pred = torch.from_numpy(rng.randint(low, high, (5, 7))).to(dtype)
    likely = [0, 1, 3, num_classes, ignore_index, 255, high - 1]
    label = torch.from_numpy(rng.choice(likely, (5, 7)))
    counts = count_pairs(pred, label, num_classes, ignore_index=ignore_index)
    assert (counts.numpy() == slow_count(pred, label, num_classes, ignore_index)).all()


def test_areas_equal_three_histograms():
    rng = np.random.RandomState(0)
    pred, label = torch.from_numpy(rng.randint(0, 9, (2, 60, 80)))  # 7 and 8 are strays
    label[rng.rand(60, 80) < 0.1] = 255
    counts = count_pairs(pred, label, 7)
    found, predicted, labelled = histc_areas(pred, label, 7, 255)
    assert counts.diagonal()[:7].tolist() == found.tolist()
    assert counts[:, :7].sum(0).tolist() == predicted.tolist()
    assert counts[:7].sum(1).tolist() == labelled.tolist()


def test_histogram_without_the_host_equals_bincount():
    code = torch.from_numpy(np.random.RandomState(0).randint(0, 20, 1001))
    assert confusion._histogram(code, 23).tolist() == torch.bincount(code, minlength=23).tolist()


def test_long_rows_are_counted_in_exact_pieces(monkeypatch):
    pred = torch.from_numpy(np.random.RandomState(0).randint(0, 5, 1000))
    label = torch.from_numpy(np.random.RandomState(1).randint(0, 5, 1000))
    whole = confusion_matrix(pred, label, 5)
    monkeypatch.setattr(confusion, "_EXACT_FLOAT32", 300)
    monkeypatch.setattr(confusion, "_BLOCK", 128)
    assert torch.equal(confusion_matrix(pred, label, 5), whole)
    assert whole.sum() == 1000


def test_counts_stay_exact_where_float32_does_not():
    pred = torch.zeros(2**24 + 3, dtype=torch.uint8)
    assert confusion_matrix(pred, pred, 2)[0, 0] == 2**24 + 3


@each_case("num_classes", [200, 255, 256, 257, 300])
def test_many_classes(num_classes):
    rng = np.random.RandomState(0)
    pred, label = torch.from_numpy(rng.randint(0, num_classes, (2, 4000)))
    expected = slow_count(pred, label, num_classes, -1)
    assert (count_pairs(pred, label, num_classes, ignore_index=-1).numpy() == expected).all()


def test_unequal_sizes_are_refused():
    with pytest.raises(ValueError, match=r"prediction \(2, 2\) and label \(3,\) differ"):
        confusion_matrix(torch.zeros(2, 2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), 2)


def test_logits_are_refused():
    with pytest.raises(ValueError, match=r"prediction is torch.float32.*argmax"):
        confusion_matrix(torch.zeros(2), torch.zeros(2, dtype=torch.int64), 2)
