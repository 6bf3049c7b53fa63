"""Loops that take turns (benchmarks/turns.py)."""

import pytest
from turns import in_turns


def test_steps_of_unequal_tasks_alternate_until_each_has_ended():
    seen = []

    def task(name, steps):
        def run(pass_on):
            for step in range(steps):
                seen.append(f"{name}{step}")
                pass_on()
            return name

        return run

    assert in_turns([task("a", 1), task("b", 3), task("c", 2)]) == ["a", "b", "c"]
    assert seen == ["a0", "b0", "c0", "b1", "c1", "b2"]


def test_a_task_that_fails_keeps_no_other_from_its_end():
    ended = []

    def failing(pass_on):
        pass_on()
        raise ValueError("half way")

    def whole(pass_on):
        for _ in range(3):
            pass_on()
        ended.append(True)

    with pytest.raises(ValueError, match="half way"):
        in_turns([failing, whole])
    assert ended == [True]


def test_a_task_alone_goes_on():
    assert in_turns([lambda pass_on: pass_on()]) == [None]
