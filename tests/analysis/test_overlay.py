import sys

import pytest
import torch

from crescendo.analysis.overlay import Column, blended, draw_columns
from crescendo.errors import UserError


def column(title: str, side: int, channels: int = 3) -> Column:
    images = torch.full((2, channels, side, side), 0.25)
    maps = torch.linspace(0, 1, side).expand(2, side, side)
    return Column(title, images, maps, ["cat 0.9", "dog 0.8"])


def test_where_the_map_is_zero_the_image_shows():
    image = torch.tensor([0.2, 0.4, 0.6])[:, None, None].expand(3, 1, 2)
    heat = torch.tensor([[0.0, 1.0]])
    left, right = blended(image, heat)[:, 0].T
    torch.testing.assert_close(left, torch.full((3,), 0.4))  # in grey
    # 0.35 of 0.4, and 0.65 of inferno's last colour (0.988, 0.998, 0.645)
    torch.testing.assert_close(right, torch.tensor([0.7824, 0.7889, 0.5592]), rtol=0, atol=1e-3)
    assert blended(image[:1], heat).shape == (3, 1, 2)


def test_a_row_for_each_file_and_a_column_for_each_map():
    figure = draw_columns(["a.png", "b.png"], [column("one", 8, channels=1), column("two", 16)])
    assert [axis.get_xlabel() for axis in figure.axes] == [
        *("a.png", "cat 0.9", "cat 0.9"),
        *("b.png", "dog 0.8", "dog 0.8"),
    ]
    assert [axis.get_title() for axis in figure.axes] == ["", "one", "two", "", "", ""]
    shown = [axis.images[0].get_array().shape for axis in figure.axes[:3]]
    assert shown == [(16, 16, 3), (8, 8, 3), (16, 16, 3)]  # the image at the finest


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"pip install \"crescendo\[explain\]\""):
        draw_columns(["a.png"], [column("one", 8)])
