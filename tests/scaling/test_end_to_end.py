"""Scaled nets from the command line: planned, trained, and built again from the run directory alone."""

import json
import shlex

import pytest
import torch
from commands import TINY, crescendo, only_run, train
from omegaconf import open_dict
from PIL import Image

from crescendo.config import validate
from crescendo.errors import UserError
from crescendo.experiment import build_curriculum, build_net, prepare

RESNET = ("model=resnet20", "model.width=8", "logger=csv")
# 28 and 32 px times 1.15 are 32.2 and 36.8; 3 blocks a stage times 1.2 are 4; 8 filters times 1.1 stay 8.
COMPOUND = ("scaling=compound", "scaling.phi=1")


@pytest.mark.slow
def test_a_scaled_run_is_built_again_by_evaluate_and_predict(tmp_path):
    result = train(*TINY, *RESNET, *COMPOUND, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "depth x 1.2, width x 1.1, resolution x 1.15" in result.stdout
    run = only_run(tmp_path)
    weights = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert "net.stages.2.3.layers.0.weight" in weights
    assert "net.stages.2.4.layers.0.weight" not in weights
    assert "36 px" in result.stdout
    summary = json.loads((run / "summary.json").read_text())
    evaluated = crescendo("evaluate", str(run), "--json", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads(evaluated.stdout)["metrics"]["test/accuracy"] == summary["metrics"]["test/accuracy"]
    Image.new("RGB", (50, 40), (200, 30, 30)).save(tmp_path / "red.png")
    predicted = crescendo("predict", str(run), "red.png", "--json", cwd=tmp_path)
    assert predicted.returncode == 0, predicted.stderr


@pytest.mark.slow
@pytest.mark.parametrize("scaling", ["depth", "width", "resolution"])
def test_one_axis_trains(scaling, tmp_path):
    result = train(*TINY, *RESNET, f"scaling={scaling}", "debug=smoke", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"scaling={scaling}, phi 1: " in result.stdout


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=lenet5", "scaling=compound"], "lenet5 has no depth to scale. Nets that have: "),
        (["model=googlenet", "scaling=width"], "googlenet has no width to scale"),
        (
            ["model=lenet5", "curriculum=constant", "scaling=resolution"],
            "lenet5 takes 32 px at most: it has no resolution to scale",
        ),
        (["scaling=compound", "scaling.alpha=0.5"], "scaling.alpha=0.5: must be a number, 1 or more"),
        (["scaling=depth", "scaling.beta=1.1"], "scaling=depth does not"),
        (["scaling.phi=2"], "scaling=none scales nothing"),
        (["scaling=compound", "scaling.resolution=36"], "must be a multiple of curriculum.multiple_of=8"),
        (["scaling=compound", "scaling.resolution=24"], "scaling.resolution=24: must be 32 px or more"),
    ],
)
def test_a_mistake_is_one_message(overrides, message, configuration):
    def plan():
        config = configuration(*overrides)
        validate(config)
        return prepare(config, overrides, shapes_only=True)

    with pytest.raises(UserError) as refusal:
        plan()
    assert message in str(refusal.value)


@pytest.mark.slow
def test_the_command_that_scale_prints_trains_what_it_promises(tmp_path):
    arguments = ("--max-macs", "100M", "--batch-size", "16", "--optimizer", "adamw", "--in-channels", "1")
    result = crescendo(
        "scale", "resnet20", *arguments, "--alpha", "1.25", "--json", "--measure", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    fit = json.loads(result.stdout)
    assert fit["binding"] == "--max-macs"
    assert fit["published"] == []
    assert fit["measured_memory"] == pytest.approx(fit["memory"]["peak"], rel=0.1)
    python, script, *overrides = shlex.split(fit["command"])
    assert (python, script) == ("python", "train.py")
    assert "scaling.alpha=1.25" in overrides
    planned = train(*overrides, "plan=true", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert f"evaluated at {fit['resolution']} px" in planned.stdout
    assert f"resnet20, {fit['parameters']:,} parameters" in planned.stdout
    assert f"{fit['macs'] / 1e6:.3g}M" in planned.stdout


def test_scale_finds_the_largest_net_within_a_budget(tmp_path):
    result = crescendo(
        "scale", "resnet20", "--max-params", "500k", "--in-channels", "1", "--json", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    fit = json.loads(result.stdout)
    assert fit["binding"] == "--max-params"
    assert 272_186 < fit["parameters"] <= 500_000
    assert "scaling=compound" in fit["command"]


@pytest.mark.slow
def test_scale_shows_the_published_efficientnets_beside_the_formula(tmp_path):
    result = crescendo("scale", "efficientnet_b0", "--max-params", "10M", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in result.stdout.splitlines()]
    assert ["B1", "1", "1.1", "240", "1", "1.10", "1.20", "258"] in cells
    assert ["B7", "2", "3.1", "600", "7", "1.95", "3.58", "596"] in cells
    assert "--max-params binds" in result.stdout
    assert "python train.py model=efficientnet_b0 scaling=compound scaling.phi=" in result.stdout


def test_the_configuration_of_a_run_from_before_there_was_scaling_builds_its_net(configuration):
    config = configuration("model=resnet20")
    with open_dict(config):
        del config["scaling"]
    validate(config)
    net = build_net(config)
    assert [len(stage) for stage in net.stages] == [3, 3, 3]
    assert build_curriculum(config, net).evaluation_resolution == 32
