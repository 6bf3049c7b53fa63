"""The verbs that need no run, driven as a user drives them."""

import json
import re

import pytest
from commands import crescendo

from crescendo.models import list_models


def test_models_shows_every_net_in_eighty_columns(tmp_path):
    result = crescendo("models", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in result.stdout
    rows = [line.split() for line in lines if line.split()[:1] and line.split()[0] in list_models()]
    assert sorted(row[0] for row in rows) == sorted(list_models())
    assert rows[0][:2] == ["lenet5", "LeNet"]
    (v2_s,) = (row for row in rows if row[0] == "efficientnet_v2_s")
    assert v2_s == ["efficientnet_v2_s", "EfficientNetV2", "2021", "21.5M", "8.37G", "384", "32"]


def test_models_are_filtered_sorted_and_printed_as_json(tmp_path):
    result = crescendo(
        "models", "*1*", "--family", "resnet", "--until", "2015", "--sort", "macs", "--json", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)
    names = [row["name"] for row in rows]
    assert names == ["resnet110", "plain18", "resnet18", "resnet1202", "resnet101", "resnet152"]
    assert rows[2] == {
        "name": "resnet18",
        "family": "ResNet",
        "year": 2015,
        "parameters": 11_689_512,
        "macs": 1_814_073_344,
        "resolution": 224,
        "min_resolution": 32,
    }


def test_profile_shows_parts_and_measures(tmp_path):
    result = crescendo("profile", "lenet5_modern", "--batch-size", "4", "--steps", "1", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for words in ("lenet5_modern at 28 px", "c5", "120x1x1", "48.1k", "61.7k"):
        assert words in result.stdout
    for words in ("inference", "images/s", "median of 1 step of 4, channels_last", "1 thread"):
        assert words in result.stdout


def test_profile_takes_other_classes_channels_and_resolutions(tmp_path):
    arguments = ("--resolution", "16", "--num-classes", "7", "--in-channels", "1", "--steps", "0")
    result = crescendo("profile", "resnet20", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "resnet20 at 16 px" in result.stdout
    assert re.search(r"stage 3\s+│\s+64x4x4", result.stdout)
    assert "1x16x16" in result.stdout
    assert "images/s" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["models", "resnt20"], ["no net is called 'resnt20'", "Did you mean resnet20"]),
        (["models", "--family", "resnets"], ["There is no family 'resnets'", "Did you mean ResNet"]),
        (["models", "vgg*", "--since", "2020"], ["no net called 'vgg*'", "years"]),
        (["models", "--sort", "size"], ["size", "parameters"]),
        (["profile", "resnt20"], ["There is no net 'resnt20'", "Did you mean resnet20"]),
        (["profile", "alexnet", "--resolution", "32"], ["alexnet needs 63 px or more, not 32"]),
        (["profile", "plain20", "--resolution", "4", "--batch-size", "1"], ["cannot train on batch_size=1"]),
        (["scale", "resnet18"], ["there is no limit: give --max-macs 1G"]),
        (["scale", "resnt18", "--max-macs", "3G"], ["There is no net 'resnt18'", "Did you mean resnet18"]),
        (["scale", "lenet5", "--max-params", "1M"], ["lenet5 has no depth to scale", "mobilenet_v2"]),
        (["scale", "resnet18", "--max-memory", "8"], ["--max-memory 8: must be", "MB, GB"]),
        (["scale", "resnet18", "--max-macs", "1G", "--alpha", "0.9"], ["alpha=0.9: must be a number, 1 or"]),
        (["scale", "resnet18", "--max-macs", "1G", "--gamma", "1.3"], ["alpha * beta^2 * gamma^2 is 2.45"]),
        (["scale", "resnet18", "--max-macs", "1G"], ["1G MACs are less than resnet18 itself", "1.81G MACs"]),
        (["scale", "resnet18", "--max-macs", "3G", "--optimizer", "sdg"], ["Did you mean sgd?"]),
        (["profile", "resnet20", "--batch-size", "0"], ["--batch-size", "greater than or equal to 1"]),
    ],
)
def test_a_mistake_is_one_message(arguments, words, tmp_path):
    result = crescendo(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr
