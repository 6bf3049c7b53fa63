"""A last stage that trains the head and the norms alone leaves all else as it is, bit by bit."""

import pytest
import torch
from commands import train
from test_resume import killed
from torch import nn
from whole_runs import TRAINING, assert_same_end

from crescendo.analysis.costs import shapes_of
from crescendo.errors import UserError
from crescendo.freezing import frozen_parameters
from crescendo.models import create_model, list_models


def trained_names(net):
    frozen = {id(parameter) for parameter in frozen_parameters(net, "head_and_norms")}
    return [name for name, parameter in net.named_parameters() if id(parameter) not in frozen]


@pytest.mark.parametrize("name", list_models())
def test_the_head_is_the_last_layer_that_computes(name):
    """Of every net: the one whose output, or a fixed function of it, is the logits."""
    net = shapes_of(create_model, name, 7).eval()
    order = []
    for module in net.modules():
        if list(module.parameters(recurse=False)):
            module.register_forward_hook(lambda module, *_: order.append(module))
    channels = next(parameter for parameter in net.parameters() if parameter.ndim == 4).shape[1]
    side = net.max_resolution or max(net.min_resolution, 64)
    net(torch.empty(1, channels, side, side, device="meta"))
    norms = [module for module in order if isinstance(module, nn.BatchNorm2d)]
    expected = {id(parameter) for module in (order[-1], *norms) for parameter in module.parameters()}
    trained = {name for name, parameter in net.named_parameters() if id(parameter) in expected}
    assert {each for each in trained_names(net) if ".auxiliary" not in f".{each}"} == trained


def test_nothing_is_frozen_where_all_is_trained():
    assert frozen_parameters(create_model("lenet5_modern"), "all") == []


def test_a_net_without_a_linear_layer_has_no_such_stage():
    with pytest.raises(UserError, match=r"Conv2d has no linear layer.*add curriculum.fixres=0"):
        frozen_parameters(nn.Conv2d(1, 1, 1), "head_and_norms")


def weights(run):
    """The raw weights of the last checkpoint, not their averages."""
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["current_model_state"]


@pytest.mark.parametrize(
    ("optimizer", "devices"),
    [
        ("sgd", 1),
        pytest.param("sgd", 2, marks=pytest.mark.slow),
        pytest.param("adamw", 1, marks=pytest.mark.slow),
    ],
)
def test_frozen_weights_stay_and_the_run_may_be_resumed_meanwhile(
    tmp_path, uninterrupted, optimizer, devices
):
    """Killed one step into the last two of four epochs; momentum and decay are on."""
    overrides = (
        *TRAINING,
        "model=resnet20",
        "curriculum=fixres",
        "curriculum.resolution.start=16",
        "curriculum.resolution.end=16",
        "curriculum.evaluation_resolution=24",
        "curriculum.fixres=0.5",
        f"optimizer={optimizer}",
        "trainer.gradient_clip_val=1.0",
        f"trainer.devices={devices}",
    )
    overrides = tuple(
        each for each in overrides if not each.startswith(("curriculum.stages", "curriculum.mul"))
    )
    run = killed(9, *overrides, cwd=tmp_path)
    inside = weights(run)
    resumed = train(f"resume={run}", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "goes on after step 9" in " ".join(resumed.stdout.split())
    end = weights(run)
    trained = {
        f"net.{name}" for name in trained_names(create_model("resnet20", num_classes=10, in_channels=3))
    }
    assert trained < set(inside)
    for name, tensor in inside.items():
        statistics = "running_" in name or "num_batches" in name
        if name.startswith("net.") or name in trained:
            assert torch.equal(tensor, end[name]) != (name in trained or statistics), name
    assert_same_end(run, uninterrupted(*overrides))
