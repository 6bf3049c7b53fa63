import numpy as np
import pytest

from crescendo.analysis.uncertainty import Interval, McNemar, PairedTest, bootstrap, holm


def test_an_interval_is_that_of_student():
    # deviation sqrt(2) of 1 and 3 over sqrt(2): 1; t of one degree of freedom is 12.706
    assert Interval.of([1, 3]) == pytest.approx((2, 12.706), abs=1e-3)
    assert Interval.of([0.5]) == (0.5, None)
    assert Interval(0.5, 0.25).show(2, "+") == "+0.50 ± 0.25"


def test_the_t_test_is_that_of_the_differences():
    # mean 2, deviation 1 over sqrt(3): t = 3.4641 at two degrees of freedom
    assert PairedTest.T.p_value([1, 2, 3]) == pytest.approx(0.0742, abs=1e-4)


def test_signed_ranks_of_one_sign_are_as_rare_as_their_number_allows():
    assert PairedTest.WILCOXON.p_value([0.1, 0.2, 0.3]) == pytest.approx(2 / 2**3)
    assert PairedTest.WILCOXON.p_value([0.1, 0.2, 0.3, 0.4, 0.5]) == pytest.approx(2 / 2**5)


@pytest.mark.parametrize("test", list(PairedTest))
def test_without_spread_there_is_no_test(test):
    assert test.p_value([0.1]) is None
    assert test.p_value([0.0, 0.0]) is None
    assert test.p_value([0.3 - 0.2, 0.1]) is None  # equal but for rounding


def test_holm_multiplies_by_what_is_left_and_never_falls():
    assert holm([0.04, None, 0.01, 0.03]) == pytest.approx([0.06, None, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_mcnemar_is_a_fair_coin_on_what_differs():
    first = np.array([1, 1, 1, 1, 1, 0, 1, 0], dtype=bool)
    second = np.array([0, 0, 0, 0, 0, 0, 1, 0], dtype=bool)
    assert McNemar.of(first, second) == (5, 0, pytest.approx(2 / 2**5))
    assert McNemar.of(second, first) == (0, 5, pytest.approx(2 / 2**5))
    assert McNemar.of(first, first) == (0, 0, 1.0)


def test_the_bootstrap_of_a_share_is_about_two_deviations_wide():
    right = np.arange(400) < 300  # deviation sqrt(.75 * .25 / 400) = .02165
    low, high = bootstrap(lambda chosen: np.array([right[chosen].mean(), 1.0, np.nan]), 400)
    assert low[0] == pytest.approx(0.75 - 1.96 * 0.02165, abs=0.006)
    assert high[0] == pytest.approx(0.75 + 1.96 * 0.02165, abs=0.006)
    assert (low[1], high[1]) == (1, 1)
    assert np.isnan([low[2], high[2]]).all()
    again, _ = bootstrap(lambda chosen: np.array([right[chosen].mean()]), 400)
    assert again[0] == low[0]
