import numpy as np
import pytest

from crescendo.analysis.mistakes import Matrix, surest_mistakes
from crescendo.answers import Answers

MATRIX = Matrix(["cat", "dog", "owl", "elk"], np.array([[3, 1, 0, 0], [0, 2, 0, 0], [4, 1, 5, 0], [0] * 4]))


def answers(given, probabilities):
    """Of three images, all of class 0."""
    labels, sure = np.zeros(3, dtype=np.int64), np.array(probabilities)
    return Answers(np.arange(3), labels, np.array(given), sure, 1 - sure)


def test_the_accuracy_of_a_class_is_of_its_own_images():
    assert MATRIX.accuracies == {"cat": 0.75, "dog": 1.0, "owl": 0.5}  # there is no elk


def test_the_most_frequent_mistakes_are_shares_of_the_true_class():
    assert MATRIX.pairs() == [("owl", "cat", 0.4), ("cat", "dog", 0.25), ("owl", "dog", 0.1)]
    assert MATRIX.pairs(1) == [("owl", "cat", 0.4)]


def test_the_weakest_class_comes_first_with_what_it_is_taken_for():
    owl, cat, dog = MATRIX.classes()
    assert owl == ("owl", 10, 0.5, 1.0, ("cat", 0.4))
    assert cat == ("cat", 4, 0.75, pytest.approx(3 / 7), ("dog", 0.25))
    assert dog == ("dog", 2, 1.0, 0.5, None)


def test_a_class_that_is_never_the_answer_has_no_precision():
    (cat, dog) = Matrix(["cat", "dog"], np.array([[0, 2], [0, 1]])).classes()
    assert (cat.precision, dog.precision) == (None, pytest.approx(1 / 3))


def test_the_worst_mistakes_are_sure_in_the_mean_of_the_runs():
    one, other = answers([1, 0, 2], [0.9, 0.99, 0.5]), answers([0, 0, 1], [0.8, 0.9, 0.7])
    assert surest_mistakes([one]) == [(0, [0.9]), (2, [0.5])]
    assert surest_mistakes([one, other]) == [(2, [0.5, 0.7]), (0, [0.9, 0.0])]
    assert surest_mistakes([one, other], most=1) == [(2, [0.5, 0.7])]
    assert surest_mistakes([answers([0, 0, 0], [0.9, 0.9, 0.9])]) == []
