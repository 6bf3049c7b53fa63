import pytest
import torch
from torch import nn

from crescendo.analysis.costs import check_resolution
from crescendo.models import create_model
from crescendo.models.layers import LocalResponseNorm, set_dropout

NAMES = ["alexnet", "alexnet_owt"]


@pytest.fixture(scope="module")
def nets() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {name: create_model(name, num_classes=10) for name in NAMES}


@pytest.mark.parametrize(("name", "first", "second"), [("alexnet", 96, 256), ("alexnet_owt", 64, 192)])
def test_maps_at_224_px(name, first, second):
    with torch.device("meta"):
        net, x = create_model(name), torch.empty(1, 3, 224, 224)
    assert net.stages[0][0](x).shape == (1, first, 55, 55)
    shapes = [(x := stage(x)).shape[1:] for stage in net.stages]
    assert shapes[:2] == [(first, 27, 27), (second, 13, 13)]
    assert shapes[-1] == (256, 6, 6)


def test_half_of_the_maps_are_seen_by_c2_c4_and_c5():
    with torch.device("meta"):
        net = create_model("alexnet")
    assert [stage[0].groups for stage in net.stages] == [1, 2, 1, 2, 2]


def test_response_norm_follows_c1_and_c2_with_the_papers_constants():
    with torch.device("meta"):
        net = create_model("alexnet")
    kinds = [[type(layer) for layer in stage] for stage in net.stages]
    normed = [nn.Conv2d, nn.ReLU, LocalResponseNorm, nn.MaxPool2d]
    assert kinds == [
        normed,
        normed,
        [nn.Conv2d, nn.ReLU],
        [nn.Conv2d, nn.ReLU],
        [nn.Conv2d, nn.ReLU, nn.MaxPool2d],
    ]
    x = torch.zeros(1, 5, 1, 1)
    x[0, 2] = 100.0
    # b = a / (k + alpha * sum of a^2) ^ beta, k 2, alpha 1e-4, beta 0.75
    assert net.stages[0][2](x)[0, 2].item() == pytest.approx(100 / 3**0.75)


def test_initial_weights_and_biases_are_the_papers(nets):
    layers = [layer for layer in nets["alexnet"].modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert [layer.bias.unique().tolist() for layer in layers] == [[0], [1], [0], [1], [1], [1], [1], [0]]
    for layer in layers:
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("num_classes", "in_channels"), [(1, 1), (3, 4)])
def test_any_resolution_from_63_px_classes_and_channels(name, num_classes, in_channels):
    with torch.device("meta"):
        net = create_model(name, num_classes, in_channels)
    for resolution in (63, 64, 160, 224):
        assert check_resolution(net, resolution) is None
        x = torch.empty(2, in_channels, resolution, resolution, device="meta")
        assert net.train()(x).shape == net.eval()(x).shape == (2, num_classes)
    assert check_resolution(net, 62) == f"{name} needs 63 px or more"
    with pytest.raises(RuntimeError, match="too small"):
        net(torch.empty(2, in_channels, 62, 62, device="meta"))


@pytest.mark.parametrize("name", NAMES)
def test_both_dropouts_of_the_head_are_the_curriculums(name, nets):
    net, x = nets[name].train(), torch.randn(2, 3, 63, 63)
    with torch.no_grad():
        assert not torch.equal(net(x), net(x))
        assert set_dropout(net, 0.0) == 2
        assert torch.equal(net(x), net(x))
    set_dropout(net, 0.5)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient_that_is_not_zero(name, nets):
    net = nets[name].train()
    nn.functional.cross_entropy(net(torch.randn(4, 3, 63, 63)), torch.arange(4)).backward()
    dead = [key for key, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    net.zero_grad(set_to_none=True)
    assert dead == []


@pytest.mark.parametrize("name", NAMES)
def test_compiles_without_a_graph_break(name, nets):
    net, x = nets[name].train(), torch.randn(2, 3, 63, 63)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.manual_seed(2)
    logits = compiled(x)
    torch.manual_seed(2)
    torch.testing.assert_close(logits, net(x))
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_exports(name, nets):
    net, x = nets[name], torch.randn(2, 3, 63, 63)
    exported = torch.export.export(net.eval(), (x,)).module()
    torch.testing.assert_close(exported(x), net(x))
