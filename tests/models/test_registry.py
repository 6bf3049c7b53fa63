import pytest

from crescendo.errors import UserError
from crescendo.models import create_model, list_models, registry
from crescendo.models.layers import Net


def test_list_models_takes_a_pattern_and_counts_upwards():
    assert list_models("resnet*")[-5:] == ["resnet56", "resnet101", "resnet110", "resnet152", "resnet1202"]
    assert list_models("plain*") == ["plain18", "plain20", "plain34", "plain56"]
    assert list_models("no such net") == []


def test_unknown_name_offers_the_nearest():
    with pytest.raises(UserError, match=r"no net 'resnet21'\. Did you mean .*resnet20"):
        create_model("resnet21")


def test_unknown_argument_names_the_valid_ones():
    message = (
        r"resnet20 has no argument 'widht'\. Did you mean width\? "
        r"It takes num_classes, in_channels, width\."
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
