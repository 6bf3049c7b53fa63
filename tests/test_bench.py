import json

import pytest
import torch
from commands import TINY, crescendo

from crescendo.analysis.step_times import PARTS
from crescendo.bench import bench_training, of_products, usual_levers
from crescendo.errors import UserError

LONGER = (*TINY, "data.source.samples=400", "data.batch_size=16", "callbacks=ema")


def test_a_step_is_told_part_by_part_with_the_levers_that_were_named(tmp_path):
    typed = ("--steps", "4", "--rounds", "1", "--lever", "channels_last=false", "--json", *LONGER)
    process = crescendo("bench", *typed, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout)
    assert (result["net"], result["resolution"], result["precision"]) == ("lenet5_modern", 32, "32-true")
    times = result["times"]
    assert list(times["parts"]) == list(PARTS)
    assert min(times["parts"].values()) > 0
    assert times["images"] == 16
    assert times["peak_bytes"] > 2**20
    assert 0 < result["operations"] < result["peak"]
    (lever,) = result["levers"]
    assert lever["override"] == "channels_last=false"
    assert len(lever["ratios"]) == 1
    assert list(tmp_path.iterdir()) == []  # nothing is left


def test_without_levers_the_step_alone(configuration):
    result = bench_training(lambda overrides: configuration(*overrides), LONGER, steps=6, rounds=1, levers=[])
    assert result.levers == []
    assert sum(result.times.parts.values()) == pytest.approx(result.times.seconds, rel=2)
    assert result.times.parts["backward"] > result.times.parts["logging"]


def test_settings_that_suit_are_the_other_ones(configuration):
    assert usual_levers(configuration(*TINY, "data.num_workers=2")) == [
        "data.batch_size=64",
        "data.num_workers=4",
        "channels_last=false",
        "trainer.precision=bf16-mixed",
        "compile=true",
    ]
    typed = ("channels_last=false", "trainer.precision=bf16-mixed", "compile=true")
    assert usual_levers(configuration(*TINY, *typed))[2:] == [
        "channels_last=true",
        "trainer.precision=32-true",
    ]


def test_a_lever_that_cannot_be_is_told_and_the_others_are_measured(tmp_path):
    typed = ("--steps", "4", "--rounds", "1", "--lever", "data.batch_size=100", "--lever", "tf32=true")
    process = crescendo("bench", *typed, *LONGER, "trainer.enable_progress_bar=false", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    told = " ".join(process.stdout.split())
    assert "data.batch_size=100 cannot be: an epoch has" in told
    assert "tf32=true" in told


def test_the_peak_is_of_what_products_are_computed_in():
    asked = ("bf16-mixed", "16-true", "64-true", "32-true")
    assert [of_products(each) for each in asked] == [
        torch.bfloat16,
        torch.float16,
        torch.float64,
        torch.float32,
    ]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.devices=2"], "measures one device"),
        (["data.batch_size=48"], "an epoch has 3 steps"),
        (["trainer.find_batch_size=true"], "measures the batch that is given"),
    ],
)
def test_what_cannot_be_measured_is_refused(overrides, message, configuration):
    with pytest.raises(UserError, match=message):
        bench_training(lambda typed: configuration(*typed), [*TINY, *overrides], steps=4, rounds=1, levers=[])
