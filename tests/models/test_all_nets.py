"""What holds for every registered net. A new net is one row of GOLDEN, written by hand."""

import inspect
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from hydra.utils import get_method
from torch import nn

from crescendo.analysis.costs import check_resolution, count_macs, count_parameters
from crescendo.models import create_model, list_models
from crescendo.models.layers import Net, published_drop_path, published_dropout, set_drop_path

CONF = Path(__file__).parents[2] / "conf" / "model"


class Golden(NamedTuple):
    in_channels: int
    num_classes: int
    resolution: int
    parameters: int
    macs: int
    min_resolution: int
    drop_path: float | None
    dropout: float | None


# fmt: off
GOLDEN = {
    #                       in  classes px  parameters      macs   min  drop_path dropout
    "lenet5":        Golden(1,  10,  32,      60_000,       325_680, 32, None, None),
    "lenet5_modern": Golden(1,  10,  28,      61_706,       416_520, 28, None, None),
    "alexnet":      Golden(3,1000, 224,  60_965_224,    724_406_816, 63, None, 0.5),
    "alexnet_owt":  Golden(3,1000, 224,  61_100_840,    714_188_480, 63, None, 0.5),
    "vgg11":        Golden(3,1000, 224, 132_863_336,  7_609_090_048, 32, None, 0.5),
    "vgg11_bn":     Golden(3,1000, 224, 132_868_840,  7_609_090_048, 32, None, 0.5),
    "vgg13":        Golden(3,1000, 224, 133_047_848, 11_308_466_176, 32, None, 0.5),
    "vgg13_bn":     Golden(3,1000, 224, 133_053_736, 11_308_466_176, 32, None, 0.5),
    "vgg16":        Golden(3,1000, 224, 138_357_544, 15_470_264_320, 32, None, 0.5),
    "vgg16_bn":     Golden(3,1000, 224, 138_365_992, 15_470_264_320, 32, None, 0.5),
    "vgg19":        Golden(3,1000, 224, 143_667_240, 19_632_062_464, 32, None, 0.5),
    "vgg19_bn":     Golden(3,1000, 224, 143_678_248, 19_632_062_464, 32, None, 0.5),
    "googlenet":    Golden(3,1000, 224,  13_378_280,  1_582_671_872, 79, None, 0.4),
    "googlenet_bn": Golden(3,1000, 224,  13_004_888,  1_498_376_192, 32, None, 0.2),
    "se_googlenet": Golden(3,1000, 224,  13_484_991,  1_498_850_464, 32, None, 0.2),
    "plain20":       Golden(3,  10,  32,     269_722,    40_551_040,  4, None, None),
    "plain56":       Golden(3,  10,  32,     853_018,   125_485_696,  4, None, None),
    "resnet20":      Golden(3,  10,  32,     269_722,    40_551_040,  4, 0.0,  None),
    "resnet32":      Golden(3,  10,  32,     464_154,    68_862_592,  4, 0.0,  None),
    "resnet44":      Golden(3,  10,  32,     658_586,    97_174_144,  4, 0.0,  None),
    "resnet56":      Golden(3,  10,  32,     853_018,   125_485_696,  4, 0.0,  None),
    "resnet110":     Golden(3,  10,  32,   1_727_962,   252_887_680,  4, 0.0,  None),
    "resnet1202":    Golden(3,  10,  32,  19_421_274, 2_829_238_912,  4, 0.0,  None),
}
# fmt: on

# The deep ResNets repeat resnet20's block: running them too would only take long.
SHALLOW = ["lenet5", "lenet5_modern", "plain20", "resnet20"]


@pytest.fixture(scope="module")
def meta_nets() -> dict[str, Net]:
    with torch.device("meta"):
        return {name: create_model(name, row.num_classes, row.in_channels) for name, row in GOLDEN.items()}


def build(name: str) -> Net:
    torch.manual_seed(0)
    return create_model(name, GOLDEN[name].num_classes, GOLDEN[name].in_channels)


def images(name: str, count: int = 2) -> torch.Tensor:
    resolution = max(GOLDEN[name].min_resolution, 8)
    generator = torch.Generator().manual_seed(1)
    shape = (count, GOLDEN[name].in_channels, resolution, resolution)
    return torch.randn(shape, generator=generator)


def test_every_registered_net_has_a_golden_row():
    assert sorted(list_models()) == sorted(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_parameters_resolution_and_published_rates(name, meta_nets):
    net, row = meta_nets[name], GOLDEN[name]
    assert net.name == name
    assert count_parameters(net) == row.parameters
    assert net.min_resolution == row.min_resolution
    assert published_drop_path(net) == row.drop_path
    assert published_dropout(net) == row.dropout


@pytest.mark.parametrize("name", [name for name in GOLDEN if name != "resnet1202"])
def test_macs(name, meta_nets):
    row = GOLDEN[name]
    assert count_macs(meta_nets[name], row.resolution, row.in_channels) == row.macs


@pytest.mark.parametrize("name", SHALLOW)
@pytest.mark.parametrize(("num_classes", "in_channels"), [(1, 1), (3, 4), (1000, 3)])
def test_any_number_of_classes_and_channels(name, num_classes, in_channels):
    with torch.device("meta"):
        net = create_model(name, num_classes, in_channels).eval()
        x = torch.empty(2, in_channels, 32, 32)
    assert net(x).shape == (2, num_classes)


@pytest.mark.parametrize("name", [name for name in SHALLOW if name != "lenet5"])
def test_runs_from_its_smallest_resolution_upwards(name, meta_nets):
    net, row = meta_nets[name], GOLDEN[name]
    for resolution in (row.min_resolution, row.min_resolution + 1, 45, 64):
        assert check_resolution(net, resolution) is None
        x = torch.empty(2, row.in_channels, resolution, resolution, device="meta")
        assert net.train()(x).shape == (2, row.num_classes)
    assert check_resolution(net, row.min_resolution - 1) is not None


@pytest.mark.parametrize("name", SHALLOW)
def test_every_parameter_gets_a_gradient_that_is_not_zero(name):
    net = build(name)
    loss = nn.functional.cross_entropy(net(images(name, count=8)), torch.arange(8))
    loss.backward()
    dead = [key for key, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


@pytest.mark.parametrize("name", SHALLOW)
def test_the_same_seed_builds_the_same_net(name):
    first, second = build(name).state_dict(), build(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", SHALLOW)
def test_compiles_without_a_graph_break(name):
    net, x = build(name), images(name)
    set_drop_path(net, 0.1)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.manual_seed(2)
    logits = compiled(x)
    torch.manual_seed(2)
    torch.testing.assert_close(logits, net(x))
    torch.compiler.reset()


def test_every_registered_net_has_a_yaml_and_every_yaml_a_net():
    assert sorted(path.stem for path in CONF.glob("*.yaml")) == sorted(list_models())


@pytest.mark.parametrize("name", GOLDEN)
def test_yaml_names_the_builder_and_its_arguments(name):
    text = (CONF / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    assert 3 <= len(text.splitlines()) - 1 <= 6
    config = yaml.safe_load(text)
    builder = get_method(config.pop("_target_"))
    assert builder.__name__ == name
    assert config["num_classes"] == "${data.num_classes}"
    assert config["in_channels"] == "${data.in_channels}"
    signature = inspect.signature(builder)
    assert set(config) == set(signature.parameters)
    for axis in set(config) - {"num_classes", "in_channels"}:
        assert config[axis] == signature.parameters[axis].default
