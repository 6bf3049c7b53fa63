import numpy as np
import pytest

from crescendo.analysis.scores import Outcome, score, shares_right

NAMES = ["cat", "dog", "owl"]


def outcome(probabilities, labels):
    return Outcome(np.log(np.asarray(probabilities, dtype=np.float32)), np.asarray(labels))


def test_scores_by_hand():
    # three right at .8, one wrong at .6; class 2 has no image
    scores = score(
        outcome([[0.8, 0.1, 0.1], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1]], [0, 0, 1, 1]), NAMES
    )
    values = {name: estimate.value for name, estimate in scores.metrics.items()}
    assert values == pytest.approx(
        {
            "test/loss": (-3 * np.log(0.8) - np.log(0.3)) / 4,
            "test/accuracy": 0.75,
            "test/accuracy_top5": 1.0,
            "test/calibration_error": 0.75 * 0.2 + 0.25 * 0.6,
        },
        abs=1e-6,
    )
    assert {name: estimate.value for name, estimate in scores.classes.items()} == {"cat": 1.0, "dog": 0.5}
    assert scores.classes["cat"][1:] == (1, 1)
    low, high = scores.metrics["test/accuracy"][1:]
    assert low < 0.75 < high
    assert scores.metrics["test/calibration_error"].low is None
    assert [(one.images, one.accuracy) for one in scores.calibration] == [(1, 0), (3, 1)]
    assert [one.confidence for one in scores.calibration] == pytest.approx([0.6, 0.8])


def test_a_sure_answer_is_in_the_last_bin():
    (one,) = score(outcome([[1.0, 1e-30, 1e-30]], [0]), NAMES).calibration
    assert (one.low, one.high) == pytest.approx((14 / 15, 1))


def test_columns_are_resampled_together():
    right = np.random.default_rng(0).integers(0, 2, 200).astype(float)
    same, other = shares_right(np.stack([right, right], 1))
    assert same == other
    assert same.value == right.mean()
    assert same.low < same.value < same.high
