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
from crescendo.analysis.operators import OperatorMode
from crescendo.analysis.profile import training_loss
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
    "mobilenet_v2":        Golden(3, 1000, 224,   3_504_872,    300_774_272, 32, 0.0, 0.2),
    "efficientnet_b0":     Golden(3, 1000, 224,   5_288_548,    385_814_752, 32, 0.2, 0.2),
    "efficientnet_b1":     Golden(3, 1000, 240,   7_794_184,    686_802_832, 32, 0.2, 0.2),
    "efficientnet_b2":     Golden(3, 1000, 260,   9_109_994,    993_561_872, 32, 0.2, 0.3),
    "efficientnet_b3":     Golden(3, 1000, 300,  12_233_232,  1_827_141_392, 32, 0.2, 0.3),
    "efficientnet_b4":     Golden(3, 1000, 380,  19_341_616,  4_393_771_024, 32, 0.2, 0.4),
    "efficientnet_b5":     Golden(3, 1000, 456,  30_389_784, 10_266_384_752, 32, 0.2, 0.4),
    "efficientnet_b6":     Golden(3, 1000, 528,  43_040_704, 19_067_593_536, 32, 0.2, 0.5),
    "efficientnet_b7":     Golden(3, 1000, 600,  66_347_960, 37_745_884_192, 32, 0.2, 0.5),
    "efficientnet_lite0":  Golden(3, 1000, 224,   4_652_008,    385_187_552, 32, 0.2, 0.2),
    "efficientnet_lite1":  Golden(3, 1000, 240,   5_416_680,    600_185_232, 32, 0.2, 0.2),
    "efficientnet_lite2":  Golden(3, 1000, 260,   6_092_072,    859_736_272, 32, 0.2, 0.3),
    "efficientnet_lite3":  Golden(3, 1000, 280,   8_197_096,  1_383_321_872, 32, 0.2, 0.3),
    "efficientnet_lite4":  Golden(3, 1000, 300,  13_006_568,  2_553_034_336, 32, 0.2, 0.3),
    "efficientnet_v2_b0":  Golden(3, 1000, 224,   7_139_704,    718_086_176, 32, 0.2, 0.2),
    "efficientnet_v2_b1":  Golden(3, 1000, 240,   8_141_052,  1_196_819_360, 32, 0.2, 0.2),
    "efficientnet_v2_b2":  Golden(3, 1000, 260,  10_096_086,  1_697_542_832, 32, 0.2, 0.3),
    "efficientnet_v2_b3":  Golden(3, 1000, 300,  14_358_406,  3_011_458_816, 32, 0.2, 0.3),
    "efficientnet_v2_s":   Golden(3, 1000, 384,  21_458_488,  8_365_617_152, 32, 0.2, 0.2),
    "efficientnet_v2_m":   Golden(3, 1000, 480,  54_139_356, 24_582_460_384, 32, 0.2, 0.3),
    "efficientnet_v2_l":   Golden(3, 1000, 480, 118_515_272, 56_079_699_008, 32, 0.2, 0.4),
    "efficientnet_v2_xl":  Golden(3, 1000, 512, 208_119_808, 93_353_451_520, 32, 0.2, 0.4),
    "plain18":       Golden(3, 1000, 224, 11_515_688, 1_794_805_760, 32, None, None),
    "plain34":       Golden(3, 1000, 224, 21_623_848, 3_644_493_824, 32, None, None),
    "resnet18":      Golden(3, 1000, 224, 11_689_512, 1_814_073_344, 32, 0.0,  None),
    "resnet34":      Golden(3, 1000, 224, 21_797_672, 3_663_761_408, 32, 0.0,  None),
    "resnet50":      Golden(3, 1000, 224, 25_557_032, 4_089_184_256, 32, 0.0,  None),
    "resnet101":     Golden(3, 1000, 224, 44_549_160, 7_801_405_440, 32, 0.0,  None),
    "resnet152":     Golden(3, 1000, 224, 60_192_808, 11_513_626_624, 32, 0.0, None),
    "resnext50_32x4d":     Golden(3, 1000, 224, 25_028_904, 4_230_479_872, 32, 0.0, None),
    "resnext101_32x4d":    Golden(3, 1000, 224, 44_177_704, 7_969_996_800, 32, 0.0, None),
    "se_resnet50":         Golden(3, 1000, 224, 28_088_024, 3_860_488_192, 32, 0.0, None),
    "se_resnet101":        Golden(3, 1000, 224, 49_326_872, 7_574_937_600, 32, 0.0, None),
    "se_resnet152":        Golden(3, 1000, 224, 66_821_848, 11_288_993_792, 32, 0.0, None),
    "se_resnext50_32x4d":  Golden(3, 1000, 224, 27_559_896, 4_232_994_816, 32, 0.0, None),
    "se_resnext101_32x4d": Golden(3, 1000, 224, 48_955_416, 7_974_739_968, 32, 0.0, None),
    "senet154":            Golden(3, 1000, 224, 115_088_984, 20_688_363_520, 32, 0.0, 0.2),
}
# fmt: on

# The deep ResNets repeat resnet20's block: running them too would only take long.
SHALLOW = ["lenet5", "lenet5_modern", "plain20", "resnet20"]
# Their families' tests run small nets of the same blocks.
SLOW = ["mobilenet_v2", "efficientnet_b0", "efficientnet_lite0", "efficientnet_v2_b0"]
SHALLOW += [pytest.param(name, marks=pytest.mark.slow) for name in SLOW]

# Arguments that fit a net to weights from elsewhere: not an axis of its paper, so not in its yaml.
FOR_OTHERS_WEIGHTS = {"same_padding", "eps"}


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
    assert net.resolution == row.resolution
    assert net.min_resolution == row.min_resolution
    assert published_drop_path(net) == row.drop_path
    assert published_dropout(net) == row.dropout


@pytest.mark.parametrize("name", GOLDEN)
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


# Operators that torch.use_deterministic_algorithms refuses on GPUs, of those that nets use.
UNORDERED = {
    "_adaptive_avg_pool2d_backward",
    "adaptive_max_pool2d_backward",
    "fractional_max_pool2d_backward",
    "grid_sampler_2d_backward",
    "nll_loss2d_backward",
    "reflection_pad2d_backward",
    "upsample_bicubic2d_backward",
    "upsample_bilinear2d_backward",
}


DEEPER = ["alexnet", "vgg11_bn", "googlenet", "googlenet_bn", "resnet50", "se_resnet50", "efficientnet_b0"]


class Names(OperatorMode):
    def __init__(self):
        super().__init__()
        self.seen = set()

    def call(self, func, args, kwargs):
        self.seen.add(func._overloadpacket.__name__)
        return func(*args, **kwargs)


@pytest.mark.parametrize("name", [*SHALLOW, *DEEPER])
def test_a_training_step_is_deterministic_on_gpus(name):
    """Also at a size that pools do not divide."""
    row = GOLDEN[name]
    with torch.device("meta"):
        net = create_model(name, row.num_classes, row.in_channels)
        x = torch.empty(2, row.in_channels, *(2 * [32 if name == "lenet5" else 101]))
        labels = torch.zeros(2, dtype=torch.long)
    with Names() as operators:
        training_loss(net(x), labels).backward()
    assert "convolution_backward" in operators.seen
    assert not operators.seen & UNORDERED


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
    assert set(config) == set(signature.parameters) - FOR_OTHERS_WEIGHTS
    for axis in set(config) - {"num_classes", "in_channels"}:
        assert config[axis] == signature.parameters[axis].default
