"""The memory of a training step: by hand, and against what the allocator says of a real one."""

from functools import partial

import pytest
import torch
from torch import nn

from crescendo.analysis.costs import shapes_of
from crescendo.analysis.memory import allocator_peak, estimate_step_memory, measure_step_memory
from crescendo.models import create_model
from crescendo.rmsprop import TensorFlowRMSprop

PLAIN = partial(torch.optim.SGD, lr=0.1)
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
ADAMW = partial(torch.optim.AdamW, lr=1e-3)
RMSPROP = partial(torch.optim.RMSprop, lr=1e-3, momentum=0.9)
TENSORFLOW = partial(TensorFlowRMSprop, lr=1e-3, weight_decay=1e-5)


def test_a_step_by_hand():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(800, 5, bias=False)
    )
    memory = estimate_step_memory(net, 10, batch_size=4, optimizer=SGD)
    weights = 4 * (24 + 4000)
    assert (memory.weights, memory.gradients, memory.optimizer) == (weights, weights, weights)
    # Backward behind the ReLU: what it returned, the gradients of that and of what it saw, all of 4 x 800;
    # images and labels; the convolution has no gradient yet. The logits and the loss are gone, or small.
    expected = 4 * 3 * 3200 + 4 * 1200 + 4 * 8 - 4 * 24
    assert expected <= memory.activations <= expected + 64


@pytest.mark.parametrize(("optimizer", "copies"), [(PLAIN, 0), (SGD, 1), (ADAMW, 2), (RMSPROP, 2)])
def test_an_optimizers_state_is_so_many_copies_of_the_weights(optimizer, copies):
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 10, bias=False))
    memory = estimate_step_memory(net, 4, 2, optimizer)
    assert memory.gradients == 4 * 480
    assert copies * 4 * 480 <= memory.optimizer <= copies * 4 * 480 + 4  # AdamW counts steps, too


# 4 families and more; weights are reordered by a CPU's convolution, which is the whole difference.
@pytest.mark.parametrize(
    ("name", "arguments", "resolution", "batch_size", "optimizer"),
    [
        ("resnet20", {}, 32, 16, SGD),
        pytest.param("resnet18", {}, 96, 8, SGD, marks=pytest.mark.slow),
        pytest.param("resnet50", {}, 96, 8, ADAMW, marks=pytest.mark.slow),
        ("vgg11_bn", {"width": 0.25}, 64, 8, SGD),
        ("mobilenet_v2", {}, 64, 8, RMSPROP),
        ("efficientnet_b0", {}, 64, 8, ADAMW),
        pytest.param("efficientnet_v2_b0", {}, 96, 8, SGD, marks=pytest.mark.slow),
        ("se_resnet50", {"depth": 0.5}, 64, 8, SGD),
    ],
)
def test_the_estimate_is_within_a_tenth_of_the_allocators_peak(
    name, arguments, resolution, batch_size, optimizer
):
    build = partial(create_model, name, 10, **arguments)
    estimate = estimate_step_memory(shapes_of(build), resolution, batch_size, optimizer).peak
    measured = measure_step_memory(build(), resolution, batch_size, optimizer)
    assert estimate == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(
    ("name", "arguments", "resolution", "batch_size", "optimizer"),
    [
        ("resnet20", {}, 32, 16, SGD),
        ("vgg11_bn", {"width": 0.25}, 64, 8, SGD),  # its peak is the optimizer's
        pytest.param("se_resnet50", {"depth": 0.5}, 64, 8, ADAMW, marks=pytest.mark.slow),
    ],
)
def test_mixed_precision_is_followed(name, arguments, resolution, batch_size, optimizer):
    build = partial(create_model, name, 10, **arguments)
    half = {"autocast": torch.bfloat16}
    single = estimate_step_memory(shapes_of(build), resolution, batch_size, optimizer)
    mixed = estimate_step_memory(shapes_of(build), resolution, batch_size, optimizer, **half)
    measured = measure_step_memory(build(), resolution, batch_size, optimizer, **half)
    assert mixed.peak == pytest.approx(measured, rel=0.1)
    assert (mixed.weights, mixed.gradients, mixed.optimizer) == (
        single.weights,
        single.gradients,
        single.optimizer,
    )


@pytest.mark.parametrize("optimizer", [SGD, ADAMW, RMSPROP, TENSORFLOW])
def test_an_optimizer_that_may_choose_is_fused_on_a_gpu_or_takes_all_weights_at_once(optimizer):
    """Its lists of temporaries are the peak of a net with many weights; a fused one has none."""
    build = partial(create_model, "vgg11_bn", 10, width=0.25)
    cuda, cpu = torch.device("cuda"), torch.device("cpu")

    def peak(device: torch.device, **choice: bool) -> int:
        chosen = partial(optimizer, **choice)
        return estimate_step_memory(shapes_of(build), 32, 2, chosen, device=device).peak

    at_once = peak(cpu, foreach=True)
    may_fuse = optimizer in (SGD, ADAMW)
    assert at_once != peak(cpu)
    assert peak(cuda) == (peak(cpu) if may_fuse else at_once)
    assert peak(cuda, **{"fused": False} if may_fuse else {}) == at_once
    assert peak(cuda, foreach=False) == peak(cpu)
    if not torch.cuda.is_available():
        measured = measure_step_memory(build(), 32, 2, partial(optimizer, foreach=True))
        assert at_once == pytest.approx(measured, rel=0.1)


def test_estimating_leaves_the_net_as_it_was():
    net = create_model("resnet20", 10, width=4).eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    estimate_step_memory(net, 8, 2, SGD)
    assert not any(module.training for module in net.modules())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_the_peak_counts_what_is_there_at_once():
    def task() -> None:
        kept = torch.empty(1000, dtype=torch.uint8)
        for size in (500_000, 200_000):
            torch.empty(size, dtype=torch.uint8)
        del kept

    assert 501_000 <= allocator_peak(task, torch.device("cpu")) < 502_000
