"""RMSProp as TensorFlow computes it, which the EfficientNets and MobileNetV2 were trained with.

    square   = decay * square + (1 - decay) * gradient^2        starts at 1
    buffer   = momentum * buffer + lr * gradient / sqrt(square + eps)
    weight   = weight - buffer

torch.optim.RMSprop starts `square` at 0, adds eps outside of the root, and multiplies by the learning rate
what leaves the buffer. So its first steps are larger, its steps where gradients are small up to sqrt(2)
smaller, and a new learning rate acts at once on gradients of the past.
(Tieleman & Hinton 2012, lecture 6.5; tf.compat.v1.train.RMSPropOptimizer.)
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class TensorFlowRMSprop(Optimizer):
    """RMSProp with momentum, by the equations above.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        decay: of the running mean of squared gradients.
        momentum: of the updates.
        eps: added to that mean, inside the root.
        weight_decay: of an L2 term in the loss: it goes through the running means like any gradient.
        foreach: take all weights at once. None does so where they are on GPUs; the results are the same.

    Raises:
        ValueError: a value outside its bounds.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.016,
        decay: float = 0.9,
        momentum: float = 0.9,
        eps: float = 1e-3,
        weight_decay: float = 0.0,
        foreach: bool | None = None,
    ) -> None:
        for name, value in {"lr": lr, "eps": eps, "weight_decay": weight_decay}.items():
            if value < 0:
                raise ValueError(f"{name}={value:g}: must be 0 or more")
        for name, value in {"decay": decay, "momentum": momentum}.items():
            if not 0 <= value < 1:
                raise ValueError(f"{name}={value:g}: must be at least 0 and below 1")
        super().__init__(
            params,
            {
                "lr": lr,
                "decay": decay,
                "momentum": momentum,
                "eps": eps,
                "weight_decay": weight_decay,
                "foreach": foreach,
            },
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of each parameter that has a gradient; the loss, if `closure` gives it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            for weight in weights:
                state = self.state[weight]
                if not state:
                    state["square_avg"] = torch.ones_like(weight, memory_format=torch.preserve_format)
                    state["momentum_buffer"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
            squares = [self.state[weight]["square_avg"] for weight in weights]
            buffers = [self.state[weight]["momentum_buffer"] for weight in weights]
            all_at_once = group["foreach"]
            if all_at_once is None:
                all_at_once = all(weight.is_cuda for weight in weights)
            (_all_at_once if all_at_once else _one_by_one)(weights, squares, buffers, group)
        return loss


def _one_by_one(
    weights: Sequence[Tensor], squares: Sequence[Tensor], buffers: Sequence[Tensor], group: dict[str, Any]
) -> None:
    decay, weight_decay = group["decay"], group["weight_decay"]
    for weight, square, buffer in zip(weights, squares, buffers, strict=True):
        gradient = weight.grad
        assert gradient is not None
        if weight_decay:
            gradient = gradient.add(weight, alpha=weight_decay)
        square.mul_(decay).addcmul_(gradient, gradient, value=1 - decay)
        root = square.add(group["eps"]).sqrt_()
        buffer.mul_(group["momentum"]).addcdiv_(gradient, root, value=group["lr"])
        weight.sub_(buffer)


def _all_at_once(
    weights: list[Tensor], squares: list[Tensor], buffers: list[Tensor], group: dict[str, Any]
) -> None:
    """The same operations in the same order, each for all weights in a few kernels."""
    decay, weight_decay = group["decay"], group["weight_decay"]
    gradients: Any = [weight.grad for weight in weights]
    if weight_decay:
        gradients = torch._foreach_add(gradients, weights, alpha=weight_decay)
    torch._foreach_mul_(squares, decay)
    torch._foreach_addcmul_(squares, gradients, gradients, value=1 - decay)
    roots = torch._foreach_add(squares, group["eps"])
    torch._foreach_sqrt_(roots)
    torch._foreach_mul_(buffers, group["momentum"])
    torch._foreach_addcdiv_(buffers, gradients, roots, value=group["lr"])
    torch._foreach_sub_(weights, buffers)
