"""A picture of maps over images: a row for each image, a column for each way of looking at it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from crescendo.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEAT = "inferno"
STRENGTH = 0.65  # of the heat where a map is 1; where it is 0 the image shows as it is
SIDE = 2.0  # of a cell, in inches


class Column(NamedTuple):
    """Maps over the images as one net saw them.

    Attributes:
        images: [N, C, R, R] in 0..1.
        maps: [N, R, R] in 0..1.
        captions: under each cell.
    """

    title: str
    images: Tensor
    maps: Tensor
    captions: Sequence[str]


def draw_columns(names: Sequence[str], columns: Sequence[Column]) -> "Figure":
    """The images, at the finest resolution of the columns, and beside them each column's maps over them.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise UserError('crescendo explain needs pip install "crescendo[explain]".') from error
    size = (SIDE * (1 + len(columns)), (SIDE + 0.3) * len(names) + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(names), 1 + len(columns), squeeze=False)
    finest = max(columns, key=lambda column: column.images.shape[-1])
    for row, (places, name) in enumerate(zip(axes, names, strict=True)):
        _draw(places[0], finest.images[row], name)
        for place, column in zip(places[1:], columns, strict=True):
            _draw(place, blended(column.images[row], column.maps[row]), column.captions[row])
    for place, column in zip(axes[0][1:], columns, strict=True):
        place.set_title(column.title, fontsize=7)
    return figure


def blended(image: Tensor, heat: Tensor) -> Tensor:
    """An image [C, R, R] in grey under the colours of a map [R, R], both in 0..1: RGB [3, R, R].

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib import colormaps
    except ModuleNotFoundError as error:
        raise UserError('class activation maps need pip install "crescendo[plot]".') from error

    colours = torch.from_numpy(colormaps[HEAT](heat.numpy())[..., :3]).permute(2, 0, 1).float()
    opacity = STRENGTH * heat
    return (1 - opacity) * image.mean(0).expand(3, -1, -1) + opacity * colours


def _draw(axis: "Axes", image: Tensor, caption: str) -> None:
    grey = len(image) == 1
    pixels = image[0] if grey else image.permute(1, 2, 0)
    axis.imshow(pixels.numpy(), cmap="gray" if grey else None, vmin=0, vmax=1, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    axis.set_xlabel(caption, fontsize=8)
