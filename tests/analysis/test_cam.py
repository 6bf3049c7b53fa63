import sys

import pytest
import torch
from torch import Tensor, nn

from crescendo.analysis.cam import (
    class_activation,
    class_maps,
    enlarged,
    grad_cam,
    linear_head,
    method_for,
    peaks,
    scaled,
)
from crescendo.analysis.choices import Method
from crescendo.errors import UserError
from crescendo.models import create_model, list_models
from crescendo.models.layers import GlobalAveragePool, Net
from crescendo.models.registry import find_entry

# One pass of these is quick, and the others repeat their blocks.
QUICK = (
    *("lenet5", "lenet5_modern", "alexnet", "alexnet_owt", "vgg11", "vgg16_bn", "googlenet", "googlenet_bn"),
    *("plain20", "resnet20", "resnet18", "resnet50", "se_resnet50", "mobilenet_v2", "efficientnet_b0"),
    *("efficientnet_lite0", "efficientnet_v2_b0"),
)

PIXELS = torch.tensor([[[[1.0, 2], [3, 4]]]])  # x


class ByHand(Net):
    """Maps x and 10 - x, and a head that is written down."""

    name = "by_hand"

    def __init__(self, pool: nn.Module, head: list[list[float]]) -> None:
        super().__init__()
        maps = nn.Conv2d(1, 2, 1)
        maps.weight.data = torch.tensor([1.0, -1])[:, None, None, None]
        maps.bias.data = torch.tensor([0.0, 10])
        self.stages, self.pool = nn.Sequential(nn.Sequential(maps)), pool
        self.head = nn.Linear(len(head[0]), len(head))
        self.head.weight.data = torch.tensor(head, dtype=torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.stages(x)).flatten(1))


def test_the_head_weighs_the_maps():
    net = ByHand(GlobalAveragePool(), head=[[2, -1], [0, 1]]).eval()
    # 2x - (10 - x) and 10 - x
    raw = class_activation(net, PIXELS.repeat(2, 1, 1, 1), [0, 1])
    assert raw.tolist() == [[[-7, -4], [-1, 2]], [[9, 8], [7, 6]]]
    maps = class_maps(net, PIXELS.repeat(2, 1, 1, 1), [0, 1])
    torch.testing.assert_close(maps, torch.tensor([[[0, 0], [0, 1]], [[1, 8 / 9], [7 / 9, 6 / 9]]]))
    # each of the four positions has a quarter of the weight as its gradient
    gradients = grad_cam(net, PIXELS.repeat(2, 1, 1, 1), [0, 1], net.pool)
    assert gradients.tolist() == [[[0, 0], [0, 0.5]], [[2.25, 2], [1.75, 1.5]]]


def test_grad_cam_takes_the_mean_gradient_of_any_head():
    # The logit is x11 + 2 x12 + 3 x21 + 6 x22 - 4 (10 - x11): weights 12/4 and -4/4.
    net = ByHand(nn.Identity(), head=[[1, 2, 3, 6, -4, 0, 0, 0]]).eval()
    assert linear_head(net) is None
    assert method_for(net, 0) is Method.GRAD_CAM
    maps = grad_cam(net, PIXELS, [0], net.pool)
    assert maps.tolist() == [[[0, 0], [2, 6]]]  # 3x - (10 - x), cut at 0
    assert class_maps(net, PIXELS, [0]).tolist() == [[[0, 0], [pytest.approx(1 / 3), 1]]]


def test_a_map_in_which_nothing_speaks_for_the_class_is_blank():
    assert scaled(torch.tensor([[[-3.0, -1]], [[-3.0, 4]]])).tolist() == [[[0, 0]], [[0, 1]]]


def test_a_map_lies_over_the_middles_of_its_places():
    maps = torch.tensor([[[0.0, 1], [0, 0]]])
    assert enlarged(maps, 4)[0, 0].tolist() == [0, 0.25, 0.75, 1]
    assert peaks(enlarged(maps, 4)).tolist() == [[0, 3]]
    assert peaks(torch.tensor([[[0.0, 0, 0], [0, 2, 1]]])).tolist() == [[1, 1]]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("resnet20", {"width": 8}),
        ("googlenet_bn", {}),
        ("mobilenet_v2", {"width": 1 / 4}),
        pytest.param("senet154", {"width": 1 / 4}, marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", {}, marks=pytest.mark.slow),
        pytest.param("efficientnet_v2_s", {"width": 1 / 4}, marks=pytest.mark.slow),
    ],
)
def test_both_methods_agree_but_for_the_number_of_positions(name, arguments):
    torch.manual_seed(0)
    classes = [4, 0, 2]
    net = create_model(name, num_classes=5, **arguments).eval()
    images = torch.randn(3, 3, 96, 96)
    raw = class_activation(net, images, classes)
    gradients = grad_cam(net, images, classes, net.readers()[-1])
    assert raw.shape[1] > 1
    torch.testing.assert_close(gradients, raw.clamp(min=0) / raw[0].numel(), rtol=1e-4, atol=1e-7)
    both = [class_maps(net, images, classes, method=method) for method in (Method.CAM, Method.GRAD_CAM)]
    assert both[0].amax() == 1
    torch.testing.assert_close(*both, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        logits = net(images)[range(3), classes]
    torch.testing.assert_close(
        raw.mean((1, 2)) + linear_head(net).bias[classes], logits, rtol=1e-4, atol=1e-5
    )


def test_an_inner_stage_is_what_autograd_says():
    torch.manual_seed(0)
    net = create_model("resnet20", width=4).eval()
    images = torch.randn(2, 3, 16, 16)
    maps = net.stages[1](net.stages[0](net.stem(images))).detach().requires_grad_()
    logits = net.head(net.pool(net.stages[2](maps)).flatten(1))
    (gradient,) = torch.autograd.grad(logits[0, 7] + logits[1, 3], maps)
    expected = (gradient.mean((2, 3), keepdim=True) * maps).sum(1).detach()
    assert (expected > 0).any()
    torch.testing.assert_close(class_maps(net, images, [7, 3], stage=1), scaled(expected))
    assert not any(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize(
    ("name", "maps"),
    [
        ("lenet5", ["6x28", "16x10"]),
        ("lenet5_modern", ["6x28", "16x10"]),
        ("alexnet", ["96x55", "256x27", "384x13", "384x13", "256x13"]),
        ("vgg16", ["64x224", "128x112", "256x56", "512x28", "512x14"]),
        ("vgg11_bn", ["64x224", "128x112", "256x56", "512x28", "512x14"]),
        ("googlenet", ["512x14", "528x14", "1024x7"]),
        ("se_googlenet", ["512x14", "528x14", "1024x7"]),
        ("resnet20", ["16x32", "32x16", "64x8"]),
        ("resnet50", ["256x56", "512x28", "1024x14", "2048x7"]),
        ("mobilenet_v2", ["16x112", "24x56", "32x28", "64x14", "96x14", "160x7", "1280x7"]),
        ("efficientnet_b0", ["16x112", "24x56", "40x28", "80x14", "112x14", "192x7", "1280x7"]),
        ("efficientnet_v2_s", ["24x192", "48x96", "64x48", "128x24", "160x24", "1280x12"]),
    ],
)
def test_the_maps_of_the_stages_at_the_papers_resolution(name, maps):
    entry = find_entry(name)
    with torch.device("meta"):
        net = entry.build().eval()
        images = torch.empty(1, entry.in_channels, net.resolution, net.resolution)
    seen = []
    for reader in net.readers():
        reader.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    with torch.no_grad():
        net(images)
    assert [f"{width}x{height}" for _, width, height, _ in seen] == maps


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in list_models()]
)
def test_every_net_has_maps_of_its_first_and_its_last_stage(name):
    entry = find_entry(name)
    with torch.device("meta"):
        net = entry.build().eval()
        side = max(net.min_resolution, 32)
        images = torch.empty(2, entry.in_channels, side, side)
    first, last = (class_maps(net, images, [1, 2], stage) for stage in (0, -1))
    assert first.shape[0] == last.shape[0] == 2
    assert first.shape[1] == first.shape[2] >= last.shape[1] == last.shape[2]
    assert side >= first.shape[1] >= side // 16
    with_dense_head = entry.family in ("LeNet", "AlexNet", "VGG")
    assert method_for(net, -1) is (Method.GRAD_CAM if with_dense_head else Method.CAM)


def test_a_method_that_does_not_fit_is_refused():
    with torch.device("meta"):
        alexnet, resnet = create_model("alexnet"), create_model("resnet20")
    with pytest.raises(UserError, match="alexnet does not end in global average pooling and one linear"):
        method_for(alexnet, -1, Method.CAM)
    with pytest.raises(UserError, match="resnet20's head weighs the maps of its last stage, 3"):
        method_for(resnet, 0, Method.CAM)
    assert method_for(resnet, 2, Method.CAM) is Method.CAM


def test_without_captum_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    net = ByHand(nn.Identity(), head=[[1.0] * 8]).eval()
    with pytest.raises(UserError, match=r"pip install \"crescendo\[explain\]\""):
        grad_cam(net, PIXELS, [0], net.pool)
