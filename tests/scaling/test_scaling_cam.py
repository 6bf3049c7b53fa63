"""experiment=scaling_cam: what its arms cost, and its picture."""

import pytest
from commands import crescendo, train
from scenes import CLASSES, make_data_set

from crescendo.config import validate
from crescendo.experiment import prepare
from crescendo.explanation import explain_files

ARMS = ("base", "deeper", "wider", "larger", "compound")
SCALED = ARMS[1:]


def plan_of(configuration, arm, *overrides):
    config = configuration("experiment=scaling_cam", f"arm={arm}", *overrides)
    config.data.source = {
        "_target_": "crescendo.data.sources.synthetic",
        "samples": 320,
        "resolution": config.data.native_size,
        "num_classes": config.data.num_classes,
        "in_channels": config.data.in_channels,
    }
    validate(config)
    assert config.arm == arm
    return prepare(config, shapes_only=True).plan


@pytest.mark.parametrize(
    ("overrides", "px"),
    [
        ((), (24, 24, 24, 48, 29)),
        (("model=efficientnet_b0", "curriculum.resolution.end=224"), (224, 224, 224, 448, 274)),
    ],
)
def test_the_scaled_arms_cost_four_times_the_base_within_a_fifth(overrides, px, configuration):
    plans = {arm: plan_of(configuration, arm, *overrides) for arm in ARMS}
    assert tuple(plan.evaluation_resolution for plan in plans.values()) == px
    macs = {arm: plan.evaluation_macs / plans["base"].evaluation_macs for arm, plan in plans.items()}
    assert all(macs[arm] == pytest.approx(4, rel=0.2) for arm in SCALED)
    assert max(macs[arm] for arm in SCALED) < 1.2 * min(macs[arm] for arm in SCALED)
    assert plans["larger"].parameters == plans["base"].parameters


@pytest.mark.slow
def test_a_sweep_and_one_command_draw_the_figure(tmp_path):
    scenes = make_data_set(tmp_path / "scenes", seed=0, training=100, test=20)
    given = (f"data.root={tmp_path / 'scenes'}", "model.width=8", "trainer=cpu", "trainer.max_epochs=1")
    swept = train(
        *("-m", "experiment=scaling_cam", *given), "trainer.enable_progress_bar=false", cwd=tmp_path
    )
    assert swept.returncode == 0, swept.stderr
    files = [scene.file for scene in scenes[: len(CLASSES)]]
    drawn = crescendo("explain", "runs/scaling_cam", *map(str, files), "--out", "figure.png", cwd=tmp_path)
    assert (drawn.returncode, drawn.stdout.split()) == (0, ["figure.png"]), drawn.stderr
    figure = explain_files([tmp_path / "runs" / "scaling_cam"], files)
    titles = [axis.get_title().split("\n") for axis in figure.axes[1:6]]
    assert [arm for *_, arm in titles] == list(ARMS)
    assert [size for _, size, _ in titles] == [f"CAM, {side}x{side}" for side in (6, 6, 6, 12, 8)]
