import numpy as np
import pytest
import torch

from nlseg.errors import ConfigError
from nlseg.evaluation.scores import check_metric_names, class_scores, score, summarize
from nlseg.table import format_table

HAND = torch.tensor([[1, 0, 0, 0], [1, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])


def test_scores_by_hand():
    # found 1 2 1 0, predicted 2 2 1 0, labelled 1 3 1 0
    scores = class_scores(HAND, metrics=("mIoU", "mDice", "mFscore"))
    assert scores["aAcc"] == 0.8
    np.testing.assert_allclose(scores["IoU"], [1 / 2, 2 / 3, 1, np.nan])
    np.testing.assert_allclose(scores["Acc"], [1, 2 / 3, 1, np.nan])
    np.testing.assert_allclose(scores["Dice"], [2 / 3, 4 / 5, 1, np.nan])
    np.testing.assert_allclose(scores["Precision"], [1 / 2, 1, 1, np.nan])
    np.testing.assert_allclose(scores["Fscore"], [2 / 3, 4 / 5, 1, np.nan])
    assert score(HAND) == {"aAcc": 80.0, "mIoU": 72.22, "mAcc": 88.89}


def test_beta_weighs_recall():
    # precision 1/2, recall 1: F2 = 5 * 0.5 * 1 / (4 * 0.5 + 1) = 0.8333
    scores = class_scores(HAND, metrics="mFscore", beta=2)
    assert scores["Fscore"][0] == pytest.approx(5 / 6)


def test_missing_scores_are_filled_before_the_mean():
    scores = class_scores(HAND, nan_to_num=-1)
    assert scores["IoU"][3] == -1
    assert summarize(scores)["mIoU"] == round((0.5 + 2 / 3 + 1 - 1) / 4 * 100, 2)


def test_predicted_but_never_labelled():
    scores = class_scores(torch.tensor([[2, 1], [0, 0]]), metrics=("mIoU", "mDice", "mFscore"))
    assert scores["IoU"][1] == 0
    assert scores["Dice"][1] == 0
    assert np.isnan(scores["Fscore"][1])


def test_strays_count_in_the_predicted_area_only():
    counts = torch.tensor([[4, 0, 1], [0, 3, 0], [2, 0, 9]])  # last row and column: strays
    scores = class_scores(counts, 2)
    np.testing.assert_allclose(scores["IoU"], [4 / (6 + 5 - 4), 1])
    assert scores["aAcc"] == 7 / 8


def test_no_class_at_all_is_not_a_number():
    assert np.isnan(score(torch.zeros(2, 2, dtype=torch.int64))["mIoU"])


def test_unknown_metric_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"no metric 'mIou'.*did you mean 'mIoU'"):
        check_metric_names(["mDice", "mIou"])


def test_table_by_hand():
    text = format_table(["class", "IoU"], [["road", 97.125], ["a tree", float("nan")]])
    assert text == "class     IoU\n------  -----\nroad    97.12\na tree      -"
