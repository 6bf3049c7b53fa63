import copy

import pytest
import torch
from torch import nn

from crescendo.errors import UserError
from crescendo.models.layers import (
    AdaptiveAveragePool,
    ConvNormActivation,
    Dropout,
    DropPath,
    GlobalAveragePool,
    LocalResponseNorm,
    SqueezeExcite,
    initialize_he,
    published_drop_path,
    published_dropout,
    scaled_depth,
    scaled_width,
    set_drop_path,
    set_dropout,
    window_means,
)


@pytest.mark.parametrize("layer", [Dropout(0.0), DropPath(0.0, share=1.0), Dropout(0.5).eval()])
def test_off_is_the_input_itself_and_draws_nothing(layer):
    x = torch.randn(4, 3, 2, 2)
    before = torch.get_rng_state()
    assert layer(x) is x
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_zeroes_values_and_preserves_the_mean():
    torch.manual_seed(0)
    dropped = Dropout(0.2)(torch.ones(100, 100))
    assert set(dropped.unique().tolist()) == {0.0, 1.25}
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert (dropped == 0).float().mean().item() == pytest.approx(0.2, abs=0.02)


def test_drop_path_drops_whole_samples_at_its_share_of_the_rate():
    torch.manual_seed(0)
    dropped = DropPath(0.4, share=0.5)(torch.ones(10_000, 2, 3, 3))
    per_sample = dropped.flatten(1)
    assert torch.equal(per_sample.amin(1), per_sample.amax(1))
    assert set(per_sample.unique().tolist()) == {0.0, 1.25}
    assert (per_sample[:, 0] == 0).float().mean().item() == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_dtype(dtype):
    x = torch.ones(64, 8, dtype=dtype)
    for layer in (Dropout(0.5), DropPath(0.5, share=1.0)):
        dropped = layer.to(dtype)(x)
        assert dropped.dtype == dtype
        assert set(dropped.unique().tolist()) == {0.0, 2.0}


def test_a_cast_does_not_round_the_rate():
    assert Dropout(0.1).bfloat16().probability.item() == torch.tensor(0.1).item()


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, float("nan")])
def test_a_rate_outside_its_range_is_refused(rate):
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        Dropout(rate)
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        DropPath(0.0, share=1.0).set_rate(rate)


@pytest.mark.parametrize("share", [0, 1.1])
def test_a_share_outside_its_range_is_refused(share):
    with pytest.raises(ValueError, match="share must be above 0 and at most 1"):
        DropPath(0.1, share)


def test_rates_are_not_saved():
    assert not nn.Sequential(Dropout(0.5), DropPath(0.5, share=1.0)).state_dict()


def test_a_net_built_on_meta_has_its_rates_once_materialised():
    with torch.device("meta"):
        net = nn.Sequential(DropPath(0.4, share=0.5), Dropout(0.3))
        assert net(torch.empty(2, 3)).shape == (2, 3)
    set_dropout(net, 0.25)
    net.to_empty(device="cpu")
    assert net[0].probability.item() == pytest.approx(0.2)
    assert net[1].probability.item() == 0.25


def test_a_copy_has_its_own_rate():
    layer = Dropout(0.5)
    copy.deepcopy(layer).set_rate(0.1)
    assert layer.probability.item() == 0.5


def test_rates_of_a_net_go_by_layer_type():
    head = nn.Sequential(Dropout(0.4), nn.Linear(2, 2))
    net = nn.ModuleDict(
        {
            "dropout_of_an_auxiliary_head": nn.Dropout(0.7),
            "first": DropPath(0.2, share=0.5),
            "second": DropPath(0.2, share=1.0),
            "head": head,
        }
    )
    assert (published_dropout(net), published_drop_path(net)) == (0.4, 0.2)
    assert (set_dropout(net, 0.1), set_drop_path(net, 0.3)) == (1, 2)
    assert head[0].probability.item() == pytest.approx(0.1)
    assert net["first"].probability.item() == pytest.approx(0.15)
    assert net["second"].probability.item() == pytest.approx(0.3)
    assert net["dropout_of_an_auxiliary_head"].p == 0.7
    assert (published_dropout(net), published_drop_path(net)) == (0.4, 0.2)


def test_a_net_without_owners_says_so():
    net = nn.Linear(2, 2)
    assert (published_dropout(net), published_drop_path(net)) == (None, None)
    assert (set_dropout(net, 0.1), set_drop_path(net, 0.1)) == (0, 0)


def test_a_new_rate_does_not_recompile():
    torch.compiler.reset()
    graphs = 0

    def count(graph, example_inputs):
        nonlocal graphs
        graphs += 1
        return graph.forward

    net = nn.Sequential(DropPath(0.0, share=0.5), nn.Flatten(), Dropout(0.5))
    set_drop_path(net, 0.1)
    compiled = torch.compile(net, backend=count, fullgraph=True)
    x = torch.ones(10_000, 1, 1, 1)
    for rate in (0.1, 0.2, 0.5, 0.9):
        set_dropout(net, rate)
        set_drop_path(net, rate)
        kept = (compiled(x) != 0).float().mean().item()
        assert kept == pytest.approx((1 - rate) * (1 - rate / 2), abs=0.03)
    assert graphs == 1
    torch.compiler.reset()


def test_response_norm_divides_by_the_neighbours_squares():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1, 1)
    layer = LocalResponseNorm(3, alpha=3.0, beta=1.0, k=1.0)  # alpha/size = 1
    expected = [1 / 6, 2 / 15, 3 / 30, 4 / 26]  # 1 + 1+4, 1 + 1+4+9, 1 + 4+9+16, 1 + 9+16
    assert layer(x).flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("size", [1, 4, 5])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_response_norm_is_torchs_and_keeps_the_memory_format(size, memory_format):
    torch.manual_seed(0)
    x = torch.randn(2, 6, 3, 5, dtype=torch.float64).to(memory_format=memory_format)
    arguments = {"size": size, "alpha": 0.3, "beta": 0.75, "k": 2.0}
    gradients = []
    for layer in (LocalResponseNorm(**arguments), nn.LocalResponseNorm(**arguments)):
        inputs = x.clone().requires_grad_()
        layer(inputs).square().sum().backward()
        gradients.append(inputs.grad)
    torch.testing.assert_close(LocalResponseNorm(**arguments)(x), nn.LocalResponseNorm(**arguments)(x))
    torch.testing.assert_close(*gradients)
    assert LocalResponseNorm(**arguments)(x).is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_global_means_of_each_map_and_their_gradients(memory_format):
    maps = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 9.0]]).expand(2, 5, 2, 3)
    for mean in (GlobalAveragePool(), SqueezeExcite(5, 1).squeeze):
        x = maps.contiguous(memory_format=memory_format).requires_grad_()
        means = mean(x)
        assert torch.equal(means, torch.full((2, 5, 1, 1), 4.0))
        (gradient,) = torch.autograd.grad((6 * means).sum(), x)
        assert torch.equal(gradient, torch.ones(2, 5, 2, 3))


def test_squeezing_half_precision_does_not_overflow():
    x = torch.full((1, 1, 300, 300), 3.0, dtype=torch.float16)
    mean = SqueezeExcite(1, 1).squeeze(x)
    assert (mean.item(), mean.dtype) == (3.0, torch.float16)


def test_initialize_he_uses_the_fan_out():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 50, 4), nn.BatchNorm2d(50))
    initialize_he(net)
    assert net[0].weight.std().item() == pytest.approx(0.05, rel=0.05)  # sqrt(2 / (50 * 16))
    assert not net[0].bias.any()
    assert (net[1].weight == 1).all()


@pytest.mark.parametrize(
    ("width", "multiplier", "never_below", "scaled"),
    [
        (64, 1.1, 0.9, 72),  # 70.4
        (16, 0.1, 0.9, 8),  # 1.6
        (16, 1.2, 0.9, 24),  # 19.2: 16 is nearer, but below 90% of it
        (16, 1.2, 0.0, 16),
    ],
)
def test_scaled_width_is_a_multiple_of_8_and_rarely_too_small(width, multiplier, never_below, scaled):
    assert scaled_width(width, multiplier, never_below=never_below) == scaled


def test_scaled_depth_is_rounded_up():
    assert [scaled_depth(depth, 1.1) for depth in (1, 3, 10, 20)] == [2, 4, 11, 22]
    assert [scaled_depth(depth, 0.5) for depth in (1, 3, 4)] == [1, 2, 2]


@pytest.mark.parametrize("multiplier", [0, -1, float("nan")])
def test_a_multiplier_is_above_0(multiplier):
    with pytest.raises(UserError, match=f"width={multiplier}: a multiplier is above 0"):
        scaled_width(16, multiplier)
    with pytest.raises(UserError, match=f"depth={multiplier}: a multiplier is above 0"):
        scaled_depth(2, multiplier)


def test_conv_norm_activation_keeps_the_size_and_has_no_bias():
    layer = ConvNormActivation(3, 8, 5, groups=1, activation=nn.ReLU)
    assert layer(torch.randn(2, 3, 7, 9)).shape == (2, 8, 7, 9)
    assert [type(part).__name__ for part in layer] == ["Conv2d", "BatchNorm2d", "ReLU"]
    assert layer[0].bias is None
    assert len(ConvNormActivation(3, 8, activation=None)) == 2


@pytest.mark.parametrize("sizes", [(5, 5), (10, 15), (1, 1), (3, 8), (7, 5), (13, 9)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_means_of_windows_are_adaptive_pooling(sizes, memory_format):
    images = torch.randn(2, 3, *sizes, dtype=torch.double).contiguous(memory_format=memory_format)
    ours, theirs = (images.clone().requires_grad_() for _ in range(2))
    weights = torch.randn(2, 3, 5, 5, dtype=torch.double)
    pooled, expected = window_means(ours, 5), AdaptiveAveragePool(5)(theirs)
    torch.testing.assert_close(pooled, expected)
    assert pooled.is_contiguous(memory_format=memory_format) or sizes == (1, 1)  # which is in both
    for each in (pooled, expected):
        (each * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
