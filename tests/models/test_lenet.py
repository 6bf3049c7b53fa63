import pytest
import torch
from torch.nn.functional import cross_entropy

from crescendo.analysis.costs import count_parameters
from crescendo.models.lenet import (
    PartialConvolution,
    RadialBasis,
    ScaledTanh,
    Subsampling,
    digit_codes,
    lenet5,
    lenet5_modern,
    random_codes,
)


def test_parameters_of_each_layer():
    net = lenet5()
    layers = [net.c1, net.s2, net.c3, net.s4, net.c5, net.f6, net.output]
    assert [count_parameters(layer) for layer in layers] == [156, 12, 1516, 32, 48120, 10164, 0]


def test_the_state_is_the_60000_parameters_and_nothing_else():
    assert sum(tensor.numel() for tensor in lenet5().state_dict().values()) == 60_000


def test_c3_sees_the_maps_of_table_1():
    table = (  # rows: maps of S2, columns: maps of C3
        "X...XXX..XXXX.XX",
        "XX...XXX..XXXX.X",
        "XXX...XXX..X.XXX",
        ".XXX..XXXX..X.XX",
        "..XXX..XXXX.XX.X",
        "...XXX..XXXX.XXX",
    )
    torch.manual_seed(0)
    layer, x = PartialConvolution(), torch.zeros(1, 6, 14, 14)
    unchanged = layer(x)
    assert unchanged.shape == (1, 16, 10, 10)
    for map_, row in enumerate(table):
        touched = x.clone()
        touched[:, map_] = 1
        changed = (layer(touched) != unchanged).flatten(2).any(2)[0]
        assert "".join("X" if seen else "." for seen in changed) == row


def test_subsampling_sums_four_times_a_gain_plus_a_bias():
    layer = Subsampling(2)
    layer.gain.data, layer.bias.data = torch.tensor([1.0, 0.5]), torch.tensor([0.0, 3.0])
    patch = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert layer(patch.expand(1, 2, 2, 2)).flatten().tolist() == [10, 8]


def test_scaled_tanh_maps_one_to_one():
    x = torch.tensor([-1.0, 0.0, 1.0, 100.0])
    assert ScaledTanh()(x).tolist() == pytest.approx([-1, 0, 1, 1.7159], abs=1e-4)


def test_logits_are_minus_the_squared_distance():
    output = RadialBasis(10)
    assert output(torch.zeros(1, 84)).tolist() == [[-84.0] * 10]
    logits = output(digit_codes())
    assert logits.diag().tolist() == [0.0] * 10
    differing = (digit_codes()[3] != digit_codes()[8]).sum().item()
    assert logits[3, 8].item() == -4 * differing


def test_digit_bitmaps_are_ten_different_drawings_of_seven_by_twelve():
    codes = digit_codes()
    assert codes.shape == (10, 84)
    assert set(codes.unique().tolist()) == {-1.0, 1.0}
    one = "".join("#" if dot > 0 else "." for dot in codes[1].tolist())
    assert [one[row : row + 7] for row in range(0, 28, 7)] == [
        ".......",
        "...##..",
        "..###..",
        ".####..",
    ]
    differing = (84 - codes @ codes.T) / 2 + 84 * torch.eye(10)
    assert differing.min().item() >= 5


def test_other_class_counts_get_distinct_codes_that_never_change():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    codes = random_codes(1000)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(codes, random_codes(1000))
    assert set(codes.unique().tolist()) == {-1.0, 1.0}
    assert len(codes.unique(dim=0)) == 1000
    assert torch.equal(RadialBasis(7).codes, random_codes(7))


def test_logits_keep_float32_where_the_net_is_bfloat16():
    logits = RadialBasis(10).bfloat16()(torch.full((1, 84), 0.01, dtype=torch.bfloat16))
    assert logits.dtype == torch.float32
    assert len(logits.unique()) > 1


def test_initial_weights_are_uniform_within_the_papers_bounds():
    torch.manual_seed(0)
    net = lenet5()
    bounds = [
        (net.c1, 2.4 / 25),
        (net.s2, 0.6),
        (net.c3.threes, 2.4 / 75),
        (net.c3.fours, 0.024),
        (net.c3.six, 0.016),
        (net.s4, 0.6),
        (net.c5, 0.006),
        (net.f6, 0.02),
    ]
    for layer, bound in bounds:
        values = torch.cat([parameter.detach().flatten() for parameter in layer.parameters()])
        assert 0.7 * bound < values.abs().max().item() <= bound


def test_a_net_built_on_meta_has_its_codes_once_materialised():
    with torch.device("meta"):
        net = lenet5()
    net.to_empty(device="cpu")
    assert torch.equal(net.output.codes, digit_codes())


@pytest.mark.parametrize("resolution", [28, 31, 33, 64])
def test_lenet5_refuses_all_but_32(resolution):
    with pytest.raises(ValueError, match=f"lenet5 takes 32x32 pixels, not {resolution}x"):
        lenet5()(torch.zeros(1, 1, resolution, resolution))


@pytest.mark.parametrize("build", [lenet5, lenet5_modern])
def test_plain_cross_entropy_starts_near_log_ten_and_trains(build):
    torch.manual_seed(0)
    net, labels = build(), torch.arange(10)
    images = torch.randn(10, 1, 32, 32)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    losses = []
    for _ in range(40):
        loss = cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(2.3, abs=0.5)
    assert losses[-1] < 0.5
