"""LAMB, from the package pytorch-optimizer: pip install "crescendo[lamb]"."""

import math
from typing import Any

from crescendo.errors import UserError

try:
    from pytorch_optimizer import Lamb
except ImportError as error:
    raise UserError(
        'optimizer=lamb needs the package pytorch-optimizer: pip install "crescendo[lamb]".'
    ) from error


class LAMB(Lamb):
    """Layer-wise adaptive moments (You et al. 2019, arXiv:1904.00962, Algorithm 2, without bias correction).

    The weight decay is part of each layer's update, before the trust ratio scales that to the length of the
    layer's weights; the package's class does so up to a length of 10, which most layers of a ResNet-50
    exceed, and takes any keyword.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        betas: of the running means of gradients and of their squares.
        eps: added to the denominator, and to the length of the update.
        weight_decay: share of the weights that each update holds.

    Raises:
        ValueError: a value outside its bounds.
    """

    clamp = math.inf  # of the weights' length

    def __init__(
        self,
        params: Any,
        lr: float = 5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            weight_decouple=False,  # inside of the update; its True is AdamW's
            adam_debias=True,  # the learning rate is not divided by 1 - beta1^t, which no trust ratio undoes
        )
