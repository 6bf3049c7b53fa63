"""Hand-built nets, one family a file. Importing this package registers them all.

create_model("resnet20", num_classes=10) builds one; list_models("resnet*") names them.
"""

from crescendo.models import alexnet, googlenet, googlenet_bn, lenet, resnet_cifar, vgg
from crescendo.models.registry import create_model, list_models

__all__ = [
    "alexnet",
    "create_model",
    "googlenet",
    "googlenet_bn",
    "lenet",
    "list_models",
    "resnet_cifar",
    "vgg",
]
