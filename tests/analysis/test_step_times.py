import pytest
import torch
from rich.console import Console

from crescendo.analysis.step_times import (
    Lever,
    StepTimes,
    advice_on_loading,
    measure_peak,
    operations_per_second,
    show_levers,
    show_step_times,
)

PARTS = {"data": 0.001, "forward": 0.004, "backward": 0.008, "optimizer": 0.002, "logging": 0.005}
TIMES = StepTimes(seconds=0.016, parts=PARTS, images=32, peak_bytes=3 * 2**20)


def printed(renderable):
    console = Console(width=100)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_operations_are_six_for_each_multiply_accumulate():
    assert TIMES.images_per_second == 2000
    assert operations_per_second(TIMES, macs=1_000_000) == 2 * 3 * 1_000_000 * 2000
    assert operations_per_second(TIMES, macs=1_000_000, passes=1) == 2 * 1_000_000 * 2000


def test_the_table_has_each_part_its_share_and_the_whole_step():
    lines = printed(show_step_times("net at 8 px", TIMES, 1.2e10, 4.8e10, "32-true", "a device")).splitlines()
    cells = [[cell.strip() for cell in line.split("│")[1:4]] for line in lines if line.startswith("│")]
    assert cells == [
        ["data", "1.00", "5%"],
        ["forward", "4.00", "20%"],
        ["backward", "8.00", "40%"],
        ["optimizer", "2.00", "10%"],
        ["logging", "5.00", "25%"],
        ["sum", "20.00", ""],
        ["step", "16.00", ""],
    ]
    assert lines[-2].strip() == "2000 images/s, peak memory 3 MiB"
    assert lines[-1].startswith("12GFLOP/s are 25% of the 48G that products of matrices reach in 32-true")


@pytest.mark.parametrize(
    ("ratios", "helps"),
    [([1.2, 1.3, 1.1], True), ([0.99, 1.3, 1.3], False), ([1.01, 1.02, 1.01], False), ([0.5], False)],
)
def test_a_lever_helps_if_it_does_so_in_each_round(ratios, helps):
    assert Lever("compile=true", ratios).helps == helps


def test_levers_are_shown_best_first_and_those_that_help_are_to_be_pasted():
    slower, faster, best = Lever("slower=1", [0.9]), Lever("faster=1", [1.1, 1.2]), Lever("best=1", [2, 2.2])
    text = printed(show_levers([slower, faster, best]))
    assert text.index("best=1") < text.index("faster=1") < text.index("slower=1")
    assert text.splitlines()[-1].strip() == "worth trying: best=1 faster=1"
    assert "none of them" in printed(show_levers([slower]))


def test_the_loader_is_worth_a_word_from_a_tenth_of_a_step_on():
    assert advice_on_loading(TIMES) is None
    slow = StepTimes(0.016, PARTS | {"data": 0.004}, 32, 0)
    assert advice_on_loading(slow).startswith("25% of a step waits")


def test_the_peak_is_what_a_product_reaches():
    peak = measure_peak(torch.device("cpu"), torch.float32)
    assert 1e8 < peak < 1e14
