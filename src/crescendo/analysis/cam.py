"""What a net looks at: class activation maps (Zhou, Khosla, Lapedriza, Oliva & Torralba 2016,
arXiv:1512.04150, section 2) and Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391, section 3).

With maps f_k in front of the head's pool and the class's weights w_k in a linear head, a class
activation map is sum_k w_k f_k(x, y). Grad-CAM takes the mean gradient of the class's logit by f_k for
w_k, so any head will do and any stage; behind the last stage, under global average pooling and a linear
head, that is w_k over the number of positions, and the two maps are one but for this factor.
Deviation: a class activation map is cut at zero, as Grad-CAM is: both show what speaks for a class.
"""

import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crescendo.analysis.choices import Method
from crescendo.errors import UserError
from crescendo.models.layers import GlobalAveragePool, Net


def class_maps(
    net: Net, images: Tensor, classes: Sequence[int], stage: int = -1, method: Method = Method.AUTO
) -> Tensor:
    """Maps [N, h, w] in 0..1 of what speaks for classes[i] in images[i], at the stage's own size.

    The largest value of each map is 1; a map in which nothing speaks for the class is 0 everywhere.

    Args:
        net: in eval mode.
        images: [N, C, R, R], normalised.
        stage: by index, as a list's.

    Raises:
        UserError: method is CAM, and the net or the stage has none.
    """
    if method_for(net, stage, method) is Method.CAM:
        return scaled(class_activation(net, images, classes))
    return scaled(grad_cam(net, images, classes, net.readers()[stage]))


def method_for(net: Net, stage: int, method: Method = Method.AUTO) -> Method:
    """CAM or GRAD_CAM: what `method` comes to at a stage of a net.

    Raises:
        UserError: method is CAM, and the net or the stage has none.
    """
    stages = len(net.readers())
    is_last = stage in (-1, stages - 1)
    if method is Method.CAM:
        if linear_head(net) is None:
            raise UserError(
                f"--method cam: {net.name} does not end in global average pooling and one linear layer. "
                f"Use --method grad-cam."
            )
        if not is_last:
            raise UserError(
                f"--method cam: {net.name}'s head weighs the maps of its last stage, {stages}. "
                f"Use --method grad-cam for the others."
            )
        return method
    if method is Method.AUTO and is_last and linear_head(net) is not None:
        return Method.CAM
    return Method.GRAD_CAM


def linear_head(net: Net) -> nn.Linear | None:
    """The head's linear layer, if it reads nothing but global averages of the last maps."""
    head = getattr(net, "head", None)
    if not isinstance(net.readers()[-1], GlobalAveragePool) or not isinstance(head, nn.Module):
        return None
    layers = [layer for layer in head.modules() if list(layer.parameters(recurse=False))]
    return layers[0] if len(layers) == 1 and isinstance(layers[0], nn.Linear) else None


def class_activation(net: Net, images: Tensor, classes: Sequence[int]) -> Tensor:
    """sum_k w_k f_k [N, h, w], of either sign: the class's logit without its bias is its mean."""
    head, seen = linear_head(net), []
    assert head is not None
    handle = net.readers()[-1].register_forward_pre_hook(lambda pool, inputs: seen.append(inputs[0]))
    try:
        with torch.no_grad():
            net(images)
    finally:
        handle.remove()
    return torch.einsum("nk,nkhw->nhw", head.weight.detach()[list(classes)], seen[0])


def grad_cam(net: Net, images: Tensor, classes: Sequence[int], reader: nn.Module) -> Tensor:
    """Grad-CAM [N, h, w], 0 or more, of the maps that `reader` reads.

    Raises:
        UserError: captum is not installed.
    """
    try:
        with warnings.catch_warnings():  # of its progress bars, which would be a notebook's widgets
            warnings.filterwarnings("ignore", "IProgress not found")
            from captum.attr import LayerGradCam
    except ModuleNotFoundError as error:
        raise UserError('Grad-CAM needs pip install "crescendo[explain]".') from error
    maps = LayerGradCam(net, reader).attribute(
        images, list(classes), attribute_to_layer_input=True, relu_attributions=True
    )
    return maps.detach()[:, 0]


def scaled(maps: Tensor) -> Tensor:
    """Maps [N, h, w] cut at 0, each divided by its largest value."""
    maps = maps.clamp(min=0)
    largest = maps.amax((1, 2), keepdim=True)
    return maps / torch.where(largest > 0, largest, 1)


def enlarged(maps: Tensor, resolution: int) -> Tensor:
    """Maps [N, h, w] over the image's pixels, [N, R, R], bilinear: each value in its place's middle."""
    return F.interpolate(maps[:, None], (resolution, resolution), mode="bilinear")[:, 0]


def peaks(maps: Tensor) -> Tensor:
    """Row and column of each map's largest value, int64 [N, 2]; of several the first."""
    flat = maps.flatten(1).argmax(1)
    return torch.stack((flat // maps.shape[2], flat % maps.shape[2]), dim=1)
