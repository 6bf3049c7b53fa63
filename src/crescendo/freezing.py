"""What of a net a curriculum stage trains."""

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from crescendo.curriculum.schedule import Trained
from crescendo.errors import UserError
from crescendo.models.parts import find_head, parts


def frozen_parameters(net: nn.Module, trained: Trained) -> list[nn.Parameter]:
    """The parameters that stay as they are: none, all but the head's, or all but the head's and the norms'.

    The head is the last linear layer (crescendo.models.parts). Auxiliary heads are trained beside a head that
    is fresh, since they are, too; beside the norms they stay.
    Norms are batch norms, whose running statistics follow their input in any case.

    Raises:
        UserError: the net has no linear layer.
    """
    if trained == "all":
        return []
    head = find_head(net)
    if head is None:
        name = getattr(net, "name", "") or type(net).__name__
        raise UserError(f"{name} has no linear layer that a last stage could train: add curriculum.fixres=0")
    if trained == "head":
        kept = {id(parameter) for parameter in parts(net)[-1].parameters}
    else:
        norms = [module for module in net.modules() if isinstance(module, _NormBase)]
        kept = {id(parameter) for module in (head, *norms) for parameter in module.parameters()}
    return [parameter for parameter in net.parameters() if id(parameter) not in kept]
