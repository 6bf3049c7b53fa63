"""Where a net is cut for rates of its own, held against lists written by hand."""

import pytest
import torch
from torch import nn

from crescendo.models import create_model, list_models
from crescendo.models.parts import dropout_of_head, find_head, parts

STAGES = {count: [f"stages.{index}" for index in range(count)] for count in (3, 4, 5, 7)}
NAMES = {
    "lenet5": ["c1", "s2", "c3", "s4", "c5", "head"],  # F6 is the head: the classes' codes are fixed
    "lenet5_modern": ["c1", "c3", "c5", "f6", "head"],
    "alexnet": [*STAGES[5], "head, hidden layers", "head"],
    "vgg11_bn": [*STAGES[5], "head, hidden layers", "head"],
    "googlenet": ["stem", *STAGES[3], "head"],
    "resnet20": ["stem", *STAGES[3], "head"],
    "resnet50": ["stem", *STAGES[4], "head"],
    "senet154": ["stem", *STAGES[4], "head"],
    "mobilenet_v2": ["stem", *STAGES[7], "last_conv", "head"],
    "efficientnet_b0": ["stem", *STAGES[7], "last_conv", "head"],
}


def on_meta(name):
    with torch.device("meta"):
        return create_model(name, num_classes=7)


@pytest.mark.parametrize("name", NAMES)
def test_each_kind_of_net_is_cut_at_its_stages(name):
    assert [part.name for part in parts(on_meta(name))] == NAMES[name]


@pytest.mark.parametrize("name", list_models())
def test_every_parameter_is_in_one_part(name):
    net = on_meta(name)
    found = [id(parameter) for part in parts(net) for parameter in part.parameters]
    assert sorted(found) == sorted(id(parameter) for parameter in net.parameters())


def test_auxiliary_heads_are_with_the_head():
    net = on_meta("googlenet")
    head = {id(parameter) for parameter in parts(net)[-1].parameters}
    expected = [*net.auxiliary.parameters(), *net.head.parameters()]
    assert head == {id(parameter) for parameter in expected}


def test_the_heads_dropout_is_what_lies_right_in_front_of_it():
    names = ("resnet20", "alexnet_owt", "vgg11", "efficientnet_b0")
    assert [len(dropout_of_head(on_meta(name))) for name in names] == [0, 0, 1, 1]
    net = on_meta("vgg11")
    assert dropout_of_head(net) == [net.head[-2]]


def test_a_net_without_a_linear_layer_has_no_head():
    assert find_head(nn.Conv2d(1, 1, 1)) is None
