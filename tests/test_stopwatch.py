import time

import pytest

from crescendo.stopwatch import Stopwatch


@pytest.fixture
def clocks(monkeypatch):
    """The clock and the CPU's, to be set by hand."""
    shown = {"perf_counter": 100.0, "process_time": 7.0}
    for name in shown:
        monkeypatch.setattr(time, name, lambda name=name: shown[name])
    return shown


def test_it_counts_what_passes_while_it_is_not_held(clocks):
    stopwatch = Stopwatch()
    assert stopwatch.reading() == (0, 0)
    stopwatch.go()
    clocks |= {"perf_counter": 103.0, "process_time": 9.0}
    assert stopwatch.reading() == (3, 2)
    stopwatch.hold()
    clocks |= {"perf_counter": 110.0, "process_time": 14.0}  # a validation
    assert stopwatch.reading() == (3, 2)
    stopwatch.go()
    clocks |= {"perf_counter": 111.0, "process_time": 14.5}
    assert stopwatch.reading() == (4, 2.5)


def test_it_begins_at_zero_or_where_another_process_was(clocks):
    stopwatch = Stopwatch()
    stopwatch.go((5.0, 4.0))
    clocks["perf_counter"] = 101.0
    assert stopwatch.reading() == (6, 4)
    stopwatch.go((0.0, 0.0))
    assert stopwatch.reading() == (0, 0)
    stopwatch.hold((8.0, 3.0))
    clocks["perf_counter"] = 105.0
    assert stopwatch.reading() == (8, 3)
