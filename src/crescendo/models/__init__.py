"""Hand-built nets, one family a file. Importing this package registers them all.

create_model("resnet20", num_classes=10) builds one; list_models("resnet*") names them.
"""

from crescendo.models import lenet, resnet_cifar
from crescendo.models.registry import create_model, list_models

__all__ = ["create_model", "lenet", "list_models", "resnet_cifar"]
