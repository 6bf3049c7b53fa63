"""The parts of a net from its images to its head: what fine-tuning gives learning rates of their own."""

from typing import NamedTuple

from torch import nn

from crescendo.models.layers import Dropout


class Part(NamedTuple):
    """A stretch of a net, by the name of its module, and what it learns."""

    name: str
    parameters: tuple[nn.Parameter, ...]


def find_head(net: nn.Module) -> nn.Linear | None:
    """The last linear layer, behind which no net has another parameter; None if there is none.

    Of lenet5, whose classes have fixed codes, that is F6.
    """
    linear = [module for module in net.modules() if isinstance(module, nn.Linear)]
    return linear[-1] if linear else None


def parts(net: nn.Module) -> list[Part]:
    """The net cut where its own modules end, in the order in which an image meets them.

    Each of its stages is a part; so is what it has beside them: a stem, a last convolution, hidden layers in
    front of the head, in LeNet-5 each layer. The head, its last linear layer, is the last part; auxiliary
    heads, which read earlier stages and end in layers as fresh as it is, belong to it. Every parameter is in
    one part, and each part has some.
    """
    head = find_head(net)
    of_head = list(head.parameters()) if head is not None else []
    auxiliary = getattr(net, "auxiliary", None)
    if auxiliary is not None:
        of_head += auxiliary.parameters()
    taken = {id(parameter) for parameter in of_head}
    stages = getattr(net, "stages", None)
    modules: list[tuple[str, nn.Module]] = []
    for name, child in net.named_children():
        if child is stages:
            modules += [(f"stages.{index}", stage) for index, stage in child.named_children()]
        else:
            modules.append((name, child))
    found = []
    for name, module in modules:
        whole = list(module.parameters())
        own = tuple(parameter for parameter in whole if id(parameter) not in taken)
        if own:
            found.append(Part(name if len(own) == len(whole) else f"{name}, hidden layers", own))
    return [*found, Part("head", tuple(of_head))] if of_head else found


def dropout_of_head(net: nn.Module) -> list[Dropout]:
    """The dropout between the head and the last layer before it that learns, if there is any."""
    head = find_head(net)
    before: list[Dropout] = []
    for module in net.modules():
        if module is head:
            return before
        if list(module.parameters(recurse=False)):
            before = []
        elif isinstance(module, Dropout):
            before.append(module)
    return []
