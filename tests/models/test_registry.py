from collections import Counter

import pytest

from crescendo.errors import UserError
from crescendo.models import create_model, list_models, registry
from crescendo.models.layers import Net
from crescendo.models.registry import find_entry, list_families


def test_list_models_takes_a_pattern_and_counts_upwards():
    assert list_models("resnet*")[-5:] == ["resnet56", "resnet101", "resnet110", "resnet152", "resnet1202"]
    assert list_models("plain*") == ["plain18", "plain20", "plain34", "plain56"]
    assert list_models("no such net") == []


def test_list_models_by_family_and_years():
    assert list_models(family="googlenet") == ["googlenet", "googlenet_bn"]
    assert list_models("*_bn", family="VGG") == ["vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"]
    assert list_models(until=2012) == ["alexnet", "lenet5", "lenet5_modern"]
    assert list_models(since=2016, until=2016) == ["resnext101_32x4d", "resnext50_32x4d"]
    assert list_models(since=2022) == []
    with pytest.raises(
        UserError, match=r"no family 'resnets'\. Did you mean ResNe[tX]t?, .* There are LeNet, "
    ):
        list_models(family="resnets")


# By hand, in the order of their years.
FAMILIES = {
    "LeNet": {1998: 2},
    "AlexNet": {2012: 1, 2014: 1},
    "GoogLeNet": {2014: 2},
    "VGG": {2014: 8},
    "ResNet": {2015: 15},
    "ResNeXt": {2016: 2},
    "SENet": {2017: 7},
    "MobileNetV2": {2018: 1},
    "EfficientNet": {2019: 8},
    "EfficientNet-Lite": {2020: 5},
    "EfficientNetV2": {2021: 8},
}


def test_every_net_has_its_family_and_year():
    assert list_families() == list(FAMILIES)
    for family, years in FAMILIES.items():
        found = Counter(find_entry(name).year for name in list_models(family=family))
        assert found == years
    assert find_entry("se_googlenet")[1:5] == ("SENet", 2017, 1000, 3)
    assert find_entry("lenet5")[1:5] == ("LeNet", 1998, 10, 1)


def test_a_file_must_state_family_and_year():
    def stray(num_classes: int = 10, in_channels: int = 3) -> Net:
        raise NotImplementedError

    with pytest.raises(ValueError, match="must state FAMILY and YEAR above its net 'stray'"):
        registry.register(stray)
    with pytest.raises(ValueError, match="must state FAMILY and YEAR"):
        registry.register(family="Stray")(stray)
    assert list_models("stray") == []


def test_unknown_name_offers_the_nearest():
    with pytest.raises(UserError, match=r"no net 'resnet21'\. Did you mean .*resnet20"):
        create_model("resnet21")


def test_unknown_argument_names_the_valid_ones():
    message = (
        r"resnet20 has no argument 'widht'\. Did you mean width\? "
        r"It takes num_classes, in_channels, width, depth\."
    )
    with pytest.raises(UserError, match=message):
        create_model("resnet20", widht=32)


def test_argument_reaches_the_net():
    assert create_model("resnet20", num_classes=10, width=4).head.in_features == 16


@pytest.mark.parametrize("argument", ["num_classes", "in_channels"])
def test_a_net_needs_at_least_one_class_and_channel(argument):
    with pytest.raises(UserError, match=f"{argument}=0 of resnet20: it must be 1 or more"):
        create_model("resnet20", **{argument: 0})


def test_a_name_is_registered_once():
    def resnet20(num_classes: int = 10, in_channels: int = 3) -> Net:
        raise NotImplementedError

    with pytest.raises(ValueError, match=r"'resnet20' is registered twice"):
        registry.register(resnet20)
