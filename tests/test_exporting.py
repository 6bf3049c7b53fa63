"""crescendo export, driven as a user drives it."""

import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from commands import TINY, crescendo, only_run, train
from PIL import Image
from safetensors import safe_open

from crescendo import exporting
from crescendo.analysis.choices import Format
from crescendo.errors import UserError
from crescendo.evaluation import load_run
from crescendo.exporting import export_run
from crescendo.models import create_model, load_weights


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """ResNet-20 of another mean for each channel, with averaged weights."""
    place = tmp_path_factory.mktemp("run")
    overrides = (*TINY, "model=resnet20", "model.width=4", "data.mean=[0.3,0.5,0.7]", "callbacks=ema")
    result = train(*overrides, "logger=csv", cwd=place)
    assert result.returncode == 0, result.stderr
    run = only_run(place)
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"git_revision": "0ff1ce+"}))
    return run


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[Path]:
    place, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    files = [place / f"{index}.png" for index in range(3)]
    for file in files:
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(file)
    return files


def test_onnx_answers_as_the_run_and_says_what_it_is(run, images, tmp_path):
    result = crescendo("export", str(run), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (result.stdout.split(), result.stderr) == (["resnet20.onnx"], "")
    assert [file.name for file in tmp_path.iterdir()] == ["resnet20.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "resnet20.onnx", providers=["CPUExecutionProvider"])
    trained = load_run(run)
    (batch,) = trained.batches(images)
    with torch.no_grad():
        expected = trained.classifier(batch)
    (given,) = session.run(None, {"images": (batch / 255).contiguous().numpy()})
    torch.testing.assert_close(torch.from_numpy(given), expected, rtol=1e-4, atol=1e-5)
    facts = session.get_modelmeta().custom_metadata_map
    assert facts == {
        "net": "resnet20",
        "run": run.name,
        "git_revision": "0ff1ce+",
        "resolution": "32",
        "in_channels": "3",
        "mean": "[0.3, 0.5, 0.7]",
        "std": "[0.25, 0.25, 0.25]",
        "fit": "resize",
        "eval_crop": "1.0",
        "normalisation": "inside",
        "classes": '["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]',
    }


def test_a_pt2_is_of_the_resolution_that_was_asked_for(run, tmp_path):
    path = export_run(run, Format.EXPORT, tmp_path / "mine.pt2", resolution=20)
    extra = {"metadata.json": ""}
    program = torch.export.load(path, extra_files=extra).module()
    assert json.loads(extra["metadata.json"])["resolution"] == "20"
    assert program(torch.rand(5, 3, 20, 20)).shape == (5, 10)
    with pytest.raises(AssertionError, match=r"images\.size\(\)\[2\] == 20"):
        program(torch.rand(5, 3, 32, 32))


def test_safetensors_are_the_weights_that_the_run_evaluates(run, tmp_path):
    path = export_run(run, Format.SAFETENSORS, tmp_path / "mine.safetensors")
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    with safe_open(path, framework="pt") as file:
        facts = file.metadata()
    assert (facts["normalisation"], facts["mean"]) == ("outside", "[0.3, 0.5, 0.7]")
    net = create_model("resnet20", num_classes=10, width=4)
    assert not load_weights(net, path).fresh
    for name, tensor in load_run(run).classifier.net.state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name])


def test_a_file_is_overwritten_by_force_alone(run, tmp_path):
    path = tmp_path / "mine.safetensors"
    path.write_text("precious")
    with pytest.raises(UserError, match=r"mine\.safetensors is there already: --force"):
        export_run(run, Format.SAFETENSORS, path)
    assert path.read_text() == "precious"
    export_run(run, Format.SAFETENSORS, path, force=True)
    assert path.stat().st_size > 10_000


def test_what_answers_otherwise_is_not_written(run, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "read", lambda form, path, fresh: lambda images: fresh(images) * 1.01)
    with pytest.raises(UserError, match="resnet20 as safetensors differs from the net by"):
        export_run(run, Format.SAFETENSORS, tmp_path / "mine.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"resolution": 3}, r"^--resolution 3: resnet20 needs 4 px or more\.$"),
        ({"out": Path("net.pt")}, r"^--out net\.pt: a file of --format safetensors ends in \.safetensors\.$"),
        ({"out": Path("nowhere/net.safetensors")}, r"^nowhere is not a directory\."),
    ],
)
def test_a_mistake_leaves_nothing(run, arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        export_run(run, Format.SAFETENSORS, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_is_one_message(tmp_path):
    (tmp_path / "run").mkdir()
    result = crescendo("export", "run", "--format", "export", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: run is not a run directory: it has no config.yaml.\n"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
