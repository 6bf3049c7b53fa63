import pytest

from crescendo.curriculum.budget import Budget, TrainingCost, fit_epochs
from crescendo.curriculum.schedule import Curriculum, Ramp, Stage


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("90s", Budget(90, "seconds")),
        ("20min", Budget(1200, "seconds")),
        ("1.5h", Budget(5400, "seconds")),
        ("2 d", Budget(172_800, "seconds")),
        ("300GMAC", Budget(3e11, "macs")),
        ("5TMACs", Budget(5e12, "macs")),
    ],
)
def test_a_budget_is_a_number_and_a_unit(text, budget):
    assert Budget.parse(text) == budget


@pytest.mark.parametrize("text", ["20", "min", "0s", "-3h", "5TFLOP", "20 minutes", "5tmac", "1e3s", ""])
def test_another_text_is_refused(text):
    with pytest.raises(ValueError, match="a number above 0 and a unit"):
        Budget.parse(text)


@pytest.mark.parametrize(
    ("amount", "kind", "text"),
    [
        (61.2, "seconds", "62s"),
        (17_467_666e6, "macs", "17.47TMAC"),
        (3e9, "macs", "3GMAC"),
        (1e4, "macs", "0.01MMAC"),
    ],
)
def test_a_budget_is_shown_rounded_up_as_it_is_typed(amount, kind, text):
    assert str(Budget(amount, kind)) == text
    assert Budget.parse(text).amount >= amount


def curriculum(epochs):
    return Curriculum(epochs, Ramp(16, 32), 2).plan


# 1 an epoch at 16 px, 4 at 32 px, 2 a validation, 3 once; half of the epochs, rounded up, are at 16 px
COST = TrainingCost(curriculum(2), [1, 4], per_validation=2, validate_every=1, once=3)


def test_a_training_costs_its_epochs_its_validations_and_what_it_costs_once():
    assert COST.of(curriculum(2)) == 3 + 1 + 4 + 2 * 2
    assert COST.of(curriculum(5)) == 3 + 3 * 1 + 2 * 4 + 5 * 2


def test_validations_are_counted_as_they_happen():
    cost = TrainingCost(curriculum(2), [1, 4], per_validation=10, validate_every=2)
    assert cost.of(curriculum(5)) == 3 * 1 + 2 * 4 + 2 * 10


@pytest.mark.parametrize(
    ("budget", "epochs"),
    [(11.9, None), (12, 2), (14.9, 2), (15, 3), (21, 4), (24, 5), (29.9, 5), (30, 6), (3 + 4500, 1000)],
)
def test_the_most_epochs_that_a_budget_pays_for(budget, epochs):
    assert fit_epochs(COST, curriculum, budget, fewest=2) == epochs


@pytest.mark.parametrize(
    ("resolution", "cost"),
    [
        (10, 4),  # known
        (20, 10),  # known
        (5, 1),  # a quarter of the area of 10 px
        (15, 4 + 6 * (225 - 100) / (400 - 100)),  # on the line between
        (30, 10 + 6 * (900 - 400) / (400 - 100)),  # beyond
    ],
)
def test_between_known_resolutions_an_epoch_costs_by_the_area(resolution, cost):
    known = [Stage(0, 0, 1, 10), Stage(1, 1, 1, 20)]
    assert TrainingCost(known, [4, 10]).of_epoch(Stage(0, 0, 1, resolution)) == pytest.approx(cost)


def test_stages_of_one_resolution_are_told_apart_by_their_knobs():
    weak, strong = (Stage(0, 0, 1, 32, {"randaugment": magnitude}) for magnitude in (0, 9))
    cost = TrainingCost([weak, strong], [2, 3])
    assert (cost.of_epoch(weak), cost.of_epoch(strong)) == (2, 3)
