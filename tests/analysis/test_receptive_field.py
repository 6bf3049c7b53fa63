from bisect import bisect_left
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crescendo.analysis.receptive_field import receptive_field
from crescendo.models import create_model
from crescendo.models.registry import find_entry


@pytest.mark.parametrize(
    ("name", "side"),
    [
        # By hand: a kernel of k adds (k - 1) times the stride of all layers before it.
        ("lenet5", 32),
        ("lenet5_modern", 32),
        ("alexnet", 195),  # 11, pool 19, 51, pool 67, 99, 131, 163, pool 195
        ("alexnet_owt", 195),
        ("vgg11", 150),
        ("vgg16", 212),  # stages end at 6, 16, 44, 100, 212
        ("vgg16_bn", 212),
        ("googlenet", 715),  # stem 27, with 5x5: 91, pool 107, 427, pool 459, 715
        ("googlenet_bn", 379),  # stem 27, with 3x3: 59, pool 75, 235, pool 251, 379
        ("se_googlenet", 379),
        ("resnet20", 81),  # 3, 15, 37, 81
        ("plain20", 81),
        ("resnet18", 435),  # stem 11, then 43, 99, 211, 435
        ("resnet50", 427),  # stem 11, then 35, 91, 267, 427: strides on the 3x3
        ("se_resnet50", 483),  # stem 11, then 35, 99, 291, 483: strides on the 1x1
        ("mobilenet_v2", 491),  # stem 3, then 7, 19, 59, 171, 267, 427, 491
        ("efficientnet_b0", 851),  # stem 3, then 7, 19, 67, 147, 339, 787, 851
        ("efficientnet_lite0", 851),
    ],
)
def test_the_field_of_the_last_map(name, side):
    with torch.device("meta"):
        net = find_entry(name).build()
    assert receptive_field(net, in_channels=find_entry(name).in_channels) == side


def test_the_resolution_changes_nothing():
    with torch.device("meta"):
        net = create_model("vgg16")
    assert receptive_field(net, 32) == receptive_field(net, 65) == 212


def test_same_padding_keeps_the_field():
    with torch.device("meta"):
        net = create_model("efficientnet_lite0", same_padding=True)
    assert receptive_field(net) == 851


def test_the_widest_branch_counts_and_a_global_mean_does_not():
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.narrow, self.wide = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 7, padding=3)
            self.gate, self.last = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 3, dilation=2)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.narrow(x) + self.wide(x)[..., ::1, ::1]
            x = x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
            x = F.max_pool2d(x[..., ::2, ::2], 3, stride=1)
            return self.last(x).flatten(1).sum(1)

    assert receptive_field(Branches(), 32) == 7 + 2 * 2 + 4 * 2


def test_a_net_without_a_resolution_of_its_own_needs_one():
    with pytest.raises(ValueError, match="Conv2d has no resolution of its own"):
        receptive_field(nn.Conv2d(3, 8, 5))
    assert receptive_field(nn.Conv2d(3, 8, 5), 32) == 5


def measured_field(net: nn.Module, in_channels: int, width: int, stride: int) -> int:
    """How many columns of an oblong image can change one inner column of the last map.

    A NaN in a column reaches whatever sees it. In float64 convolutions are computed directly, so that
    it reaches nothing else.
    """
    maps = []
    net.pool.register_forward_pre_hook(lambda module, arguments: maps.append(arguments[0]))
    column = width // stride // 2

    def reaches(pixels: slice) -> bool:
        images = torch.zeros(1, in_channels, 32, width, dtype=torch.float64)
        images[..., pixels] = torch.nan
        with torch.no_grad():
            net(images)
        return bool(maps.pop()[..., column].isnan().any())

    def first(condition: Callable[[int], bool]) -> int:
        return bisect_left(range(width), True, key=condition)

    left = first(lambda end: reaches(slice(0, end + 1)))
    right = first(lambda start: not reaches(slice(start, width)))
    assert 0 < left < right < width  # the image is wide enough
    return right - left


@pytest.mark.parametrize(
    ("name", "arguments", "width", "stride"),
    [
        ("vgg11", {"width": 1 / 8}, 512, 32),
        ("resnet20", {"width": 2}, 256, 4),
        ("resnet18", {"width": 1 / 8}, 1024, 32),
        pytest.param("mobilenet_v2", {"width": 1 / 8}, 1024, 32, marks=pytest.mark.slow),
        pytest.param("efficientnet_lite0", {"width": 1 / 8}, 2048, 32, marks=pytest.mark.slow),
        pytest.param("googlenet_bn", {}, 1024, 32, marks=pytest.mark.slow),
        pytest.param("googlenet", {}, 2048, 32, marks=pytest.mark.slow),
    ],
)
def test_the_field_is_what_a_pixel_can_reach(name, arguments, width, stride):
    net = create_model(name, num_classes=2, in_channels=1, **arguments).double().eval()
    assert measured_field(net, 1, width, stride) == receptive_field(net, in_channels=1)
