import pytest
import torch

from crescendo.models.layers import DropPath, set_drop_path
from crescendo.models.resnet_cifar import ResidualBlock, ResNetCifar, plain20, resnet20


def test_drop_path_shares_rise_linearly_to_one():
    net = ResNetCifar(depth=2, width=4, num_classes=10, in_channels=3)
    shares = [layer.share for layer in net.modules() if isinstance(layer, DropPath)]
    assert shares == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])


def test_shortcut_takes_every_second_pixel_and_appends_zero_channels():
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    shortcut = ResidualBlock(1, 2, stride=2, share=1.0).shortcut(x)
    assert shortcut.tolist() == [[[[0, 2], [6, 8]], [[0, 0], [0, 0]]]]


def test_a_dropped_block_is_its_shortcut():
    torch.manual_seed(0)
    block, x = ResidualBlock(4, 4, stride=1, share=1.0), torch.rand(64, 4, 3, 3)
    block.drop_path.set_rate(0.5)
    passed = (block(x) == x).flatten(1).all(1)
    assert 10 < passed.sum().item() < 54


def test_feature_maps_follow_the_papers_table():
    with torch.device("meta"):
        net = resnet20()
        x = net.stem(torch.empty(1, 3, 32, 32))
        shapes = [(x := stage(x)).shape[1:] for stage in net.stages]
    assert shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    assert [len(stage) for stage in net.stages] == [3, 3, 3]


def test_plain_net_is_the_residual_net_without_shortcuts():
    torch.manual_seed(0)
    residual = resnet20().eval()
    plain = plain20().eval()
    plain.load_state_dict(residual.state_dict())
    x = torch.rand(2, 3, 16, 16)
    assert not torch.allclose(plain(x), residual(x))
    assert set_drop_path(plain, 0.5) == 0


def test_width_is_the_first_stages_number_of_filters():
    with torch.device("meta"):
        net = resnet20(width=20)
    assert [stage[0].layers[0].out_channels for stage in net.stages] == [20, 40, 80]
    with pytest.raises(ValueError, match="width=0"):
        resnet20(width=0)
