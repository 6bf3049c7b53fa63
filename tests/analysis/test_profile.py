import pytest
import torch

from crescendo.analysis.costs import activation_memory, count_macs, count_parameters
from crescendo.analysis.profile import Part, measure_speed, profile_net, training_loss
from crescendo.errors import UserError
from crescendo.models import create_model
from crescendo.models.layers import WithAuxiliary
from crescendo.models.registry import find_entry


def profiled(name: str, resolution: int, batch_size: int) -> tuple[torch.nn.Module, Part]:
    with torch.device("meta"):
        net = find_entry(name).build()
    return net, profile_net(net, resolution, batch_size, find_entry(name).in_channels)


def test_the_parts_of_resnet20():
    _, net = profiled("resnet20", 32, 2)
    assert [part.name for part in net.parts] == ["stem", "stages", "pool", "head"]
    stem, stages, pool, head = net.parts
    assert stem.parts == ()
    assert [part.name for part in stages.parts] == ["stage 1", "stage 2", "stage 3"]
    assert [part.output for part in stages.parts] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    assert (stem.output, stages.output, pool.output, head.output) == (
        (16, 32, 32),
        (64, 8, 8),
        (64, 1, 1),
        (10,),
    )
    assert (stem.parameters, stem.macs) == (3 * 16 * 9 + 32, 3 * 16 * 9 * 32 * 32)
    # What the stem's norm saw, its means and deviations, and what its ReLU returned.
    assert stem.activation_bytes == 4 * (2 * 16 * 32 * 32 + 2 * 16 + 2 * 16 * 32 * 32)
    assert (head.parameters, head.macs, head.activation_bytes) == (650, 640, 4 * 2 * 64)
    assert net.output == (10,)


@pytest.mark.parametrize("name", ["lenet5", "alexnet_owt", "resnet18", "googlenet_bn", "mobilenet_v2"])
def test_the_parts_add_up_to_the_net(name):
    resolution = 32 if name == "lenet5" else 64
    net, whole = profiled(name, resolution, 2)
    in_channels = find_entry(name).in_channels
    assert whole.parameters == count_parameters(net)
    assert whole.macs == count_macs(net, resolution, in_channels) == sum(part.macs for part in whole.parts)
    assert whole.activation_bytes == activation_memory(net, resolution, 2, in_channels)
    assert sum(part.parameters for part in whole.parts) == whole.parameters
    assert 0 < sum(part.activation_bytes for part in whole.parts) <= whole.activation_bytes
    for part in whole.parts:
        if part.name == "stages":
            assert sum(stage.macs for stage in part.parts) == part.macs
            assert sum(stage.activation_bytes for stage in part.parts) == part.activation_bytes


def test_auxiliary_heads_cost_memory_but_no_macs():
    _, whole = profiled("googlenet_bn", 64, 2)
    (auxiliary,) = (part for part in whole.parts if part.name == "auxiliary")
    assert auxiliary.output is None
    assert auxiliary.macs == 0
    assert auxiliary.activation_bytes > 0


def test_profiling_leaves_the_net_as_it_was():
    net = create_model("resnet20", num_classes=10, width=4).eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    profile_net(net, 8, 2)
    assert not any(module.training or module._forward_hooks for module in net.modules())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_a_batch_too_small_for_batch_norm_is_refused():
    with pytest.raises(
        UserError, match=r"resnet18 cannot train on batch_size=1 at 32 px: Expected more than 1"
    ):
        profiled("resnet18", 32, 1)


def test_speed_is_measured_without_changing_the_weights():
    net = create_model("resnet20", num_classes=3, width=2)
    before = [parameter.clone() for parameter in net.parameters()]
    speed = measure_speed(net, 8, 2, num_classes=3, steps=2)
    assert min(speed.inference, speed.training) > 0
    assert speed.device
    assert speed.threads == torch.get_num_threads()
    assert all(torch.equal(*pair) for pair in zip(before, net.parameters(), strict=True))


def test_the_training_loss_weighs_auxiliary_heads():
    labels = torch.tensor([0, 1])
    even, sure = torch.zeros(2, 4), torch.tensor([[100.0, 0, 0, 0], [0, 100.0, 0, 0]])
    log4 = 1.3862944
    assert training_loss(even, labels).item() == pytest.approx(log4)
    assert training_loss(WithAuxiliary(sure, (even, even), 0.3), labels).item() == pytest.approx(0.6 * log4)
