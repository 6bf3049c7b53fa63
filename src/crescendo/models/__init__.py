"""Hand-built nets, one family a file. Importing this package registers them all.

create_model("resnet20", num_classes=10) builds one; list_models("resnet*") names them;
load_weights(net, "resnet50.pth") fills one.
"""

from crescendo.models import (
    alexnet,
    efficientnet_lite,
    efficientnet_v1,
    efficientnet_v2,
    googlenet,
    googlenet_bn,
    lenet,
    mobilenet,
    resnet,
    resnet_cifar,
    resnext,
    senet,
    vgg,
)
from crescendo.models.registry import create_model, list_models
from crescendo.models.weights import LoadedWeights, load_weights

__all__ = [
    "LoadedWeights",
    "alexnet",
    "create_model",
    "efficientnet_lite",
    "efficientnet_v1",
    "efficientnet_v2",
    "googlenet",
    "googlenet_bn",
    "lenet",
    "list_models",
    "load_weights",
    "mobilenet",
    "resnet",
    "resnet_cifar",
    "resnext",
    "senet",
    "vgg",
]
