import json
import sys

import onnx
import pytest
import torch
from torch import Tensor, nn

from crescendo.analysis.choices import Format
from crescendo.analysis.export import (
    METADATA,
    TOLERANCE,
    Deployed,
    allowed_difference,
    check_extra,
    largest_difference,
    read,
    write,
)
from crescendo.errors import UserError
from crescendo.models import create_model
from crescendo.models.layers import set_drop_path

MEAN, STD = [0.2, 0.4, 0.6], [0.1, 0.2, 0.3]


def deployed(name: str, seed: int, resolution: int = 28) -> Deployed:
    """With batch norm's statistics of noise: without any, a deep net's values grow from block to block."""
    torch.manual_seed(seed)
    net = create_model(name, num_classes=7)
    set_drop_path(net, 0.0)
    wrapped = Deployed(net, MEAN, STD)
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.train().momentum = 1.0
    with torch.no_grad():
        wrapped(torch.rand(32, 3, resolution, resolution))
    wrapped.eval()
    return wrapped


def test_the_normalisation_is_inside():
    identity = Deployed(nn.Flatten(), MEAN, STD)
    images = torch.tensor([0.2, 0.8, 0.0]).reshape(1, 3, 1, 1)
    torch.testing.assert_close(identity(images), torch.tensor([[0.0, 2, -2]]))


class Lossy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) + 1e6) - 1e6


# resnet20 is tried through the command line
NETS = (
    ("alexnet", 64),
    ("googlenet", 80),
    ("mobilenet_v2", 64),
    ("efficientnet_b0", 64),
    ("efficientnet_v2_s", 64),
    ("senet154", 64),
    ("lenet5_modern", 28),
)


@pytest.mark.parametrize("form", Format)
@pytest.mark.parametrize(
    ("name", "resolution"),
    [pytest.param(*row, marks=() if row[0] == "lenet5_modern" else pytest.mark.slow) for row in NETS],
)
def test_what_is_written_gives_the_nets_logits(name, resolution, form, tmp_path, capsys):
    ours, fresh = (deployed(name, seed, resolution) for seed in (0, 1))
    images = torch.rand(3, 3, resolution, resolution, generator=torch.Generator().manual_seed(0))
    assert largest_difference(fresh, ours, images) > 100 * TOLERANCE
    path = tmp_path / f"net{form.suffix}"
    write(form, ours, images, {"net": name}, path)
    difference = largest_difference(read(form, path, fresh), ours, images)
    allowed = allowed_difference(ours, images)
    assert difference <= allowed < 0.01
    with capsys.disabled():
        print(f"\n{name} {form}: {difference:.1e} of {allowed:.1e}")


def test_an_onnx_file_is_whole_and_takes_any_batch(tmp_path):
    path = tmp_path / "net.onnx"
    net = deployed("lenet5_modern", 0)
    write(Format.ONNX, net, torch.rand(2, 3, 28, 28), {"classes": '["a", "b"]', "net": "x"}, path)
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert {entry.key: entry.value for entry in model.metadata_props} == {
        "classes": '["a", "b"]',
        "net": "x",
    }
    (given,), (answered,) = model.graph.input, model.graph.output
    sizes = [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (given, answered)
    ]
    assert sizes == [["batch", 3, 28, 28], ["batch", 7]]
    assert (given.name, answered.name) == ("images", "logits")
    answer = read(Format.ONNX, path, net)
    for count in (1, 2, 5):
        assert answer(torch.rand(count, 3, 28, 28)).shape == (count, 7)


def test_a_pt2_keeps_its_metadata(tmp_path):
    path = tmp_path / "net.pt2"
    write(Format.EXPORT, deployed("lenet5_modern", 0), torch.rand(2, 3, 28, 28), {"net": "x"}, path)
    extra = {METADATA: ""}
    torch.export.load(path, extra_files=extra)
    assert json.loads(extra[METADATA]) == {"net": "x"}


def test_the_difference_is_that_of_the_worst_batch():
    ours, images = Deployed(nn.Flatten(), [0.0], [1.0]), torch.tensor([0.5, 1.0, 4.0]).reshape(3, 1, 1, 1)
    # Off by 0.25: of one image half of the largest, of three a sixteenth.
    assert largest_difference(lambda batch: batch.flatten(1) + 0.25, ours, images) == 0.5


def test_a_net_that_rounding_moves_is_allowed_more():
    images = torch.rand(3, 1, 2, 2)
    assert allowed_difference(Deployed(nn.Flatten(), [0.0], [1.0]), images) == TOLERANCE
    # 1e6 is added and taken away again: in float32 a 16th is left of the digits behind the point
    lossy = Deployed(Lossy(), [0.0], [1.0])
    assert 0.01 < allowed_difference(lossy, images) < 1


@pytest.mark.parametrize(
    ("form", "package"), [(Format.ONNX, "onnxruntime"), (Format.SAFETENSORS, "safetensors")]
)
def test_a_missing_package_is_named_with_the_extra(form, package, monkeypatch):
    check_extra(Format.EXPORT)
    check_extra(form)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"needs the package {package}: pip install \"crescendo\[export\]\""):
        check_extra(form)
