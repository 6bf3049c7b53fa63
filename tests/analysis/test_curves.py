import numpy as np
import pytest
from omegaconf import OmegaConf

from crescendo.analysis.curves import read_curves, thinned
from crescendo.errors import UserError

# Two epochs of four steps, logged every three and at an epoch's end; the second at another resolution.
METRICS = """\
step,epoch,train/loss,train/accuracy,train/macs,train/seconds,lr,curriculum/stage,curriculum/resolution,val/loss,val/accuracy,test/accuracy
2,0,2.0,0.1,30.0,1.5,0.1,0,16,,,
3,0,1.8,0.2,40.0,2.0,0.2,0,16,,,
3,0,,,,,,,,1.9,0.25,
5,1,1.5,0.3,100.0,4.0,0.1,1,32,,,
7,1,1.0,0.4,160.0,6.0,0.0,1,32,,,
7,1,,,,,,,,1.1,0.5,
8,2,,,,,,,,,,0.5
"""


def run_with(tmp_path, metrics):
    OmegaConf.save(OmegaConf.create({"data": {"batch_size": 10}, "model": {}}), tmp_path / "config.yaml")
    if metrics is not None:
        (tmp_path / "metrics.csv").write_text(metrics)
    return tmp_path


def test_a_curve_knows_what_each_of_its_points_cost(tmp_path):
    curves = read_curves(run_with(tmp_path, METRICS))
    assert curves.training["train/loss"].tolist() == [2.0, 1.8, 1.5, 1.0]
    assert curves.training["lr"].tolist() == [0.1, 0.2, 0.1, 0.0]
    assert curves.training_costs["epoch"].tolist() == [0.75, 1, 1.5, 2]
    assert curves.training_costs["images"].tolist() == [30, 40, 60, 80]
    assert curves.validation["val/accuracy"].tolist() == [0.25, 0.5]
    assert curves.validation_costs["epoch"].tolist() == [1, 2]
    assert curves.validation_costs["macs"].tolist() == [40, 160]
    assert curves.validation_costs["seconds"].tolist() == [2, 6]


def test_bands_join(tmp_path):
    first, second = read_curves(run_with(tmp_path, METRICS)).bands
    assert (first.resolution, second.resolution) == (16, 32)
    assert first.start == {"epoch": 0, "images": 0, "macs": 0, "seconds": 0}
    assert first.end == second.start == {"epoch": 1, "images": 40, "macs": 40, "seconds": 2}
    assert second.end["macs"] == 160


def test_an_epoch_that_did_not_end_does_not_shorten_the_others(tmp_path):
    rows = METRICS.splitlines()
    curves = read_curves(run_with(tmp_path, "\n".join(rows[:5]) + "\n"))
    assert curves.training_costs["epoch"].tolist() == [0.75, 1, 1.5]


def test_costs_that_were_not_recorded_are_nan(tmp_path):
    curves = read_curves(run_with(tmp_path, METRICS.replace("train/macs", "other")))
    assert np.isnan(curves.training_costs["macs"]).all()
    assert np.isnan(curves.validation_costs["macs"]).all()


@pytest.mark.parametrize("metrics", [None, "step,epoch,train/loss\n", "step,epoch,val/loss\n3,0,1.5\n"])
def test_a_run_without_rows_has_no_curves(tmp_path, metrics):
    curves = read_curves(run_with(tmp_path, metrics))
    assert len(curves.training["lr"]) == 0
    assert curves.bands == []


def test_something_else_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"metrics\.csv cannot be read"):
        read_curves(run_with(tmp_path, "step,epoch,train/loss\n1,0,good\n"))


def test_thinning_keeps_both_ends():
    assert thinned(11, 3).tolist() == [0, 5, 10]
    assert thinned(3, 10).tolist() == [0, 1, 2]
    assert thinned(1, 10).tolist() == [0]
