"""Hand-built nets, one family a file. Importing this package registers them all.

create_model("resnet20", num_classes=10) builds one; list_models("resnet*") names them.
"""

from crescendo.models import (
    efficientnet_lite,
    efficientnet_v1,
    efficientnet_v2,
    lenet,
    mobilenet,
    resnet_cifar,
)
from crescendo.models.registry import create_model, list_models

__all__ = [
    "create_model",
    "efficientnet_lite",
    "efficientnet_v1",
    "efficientnet_v2",
    "lenet",
    "list_models",
    "mobilenet",
    "resnet_cifar",
]
