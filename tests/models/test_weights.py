"""Weights into nets: from files of every kind, from torchvision, and what is refused."""

import builtins
import os
import pickle
import re
import urllib.error
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from crescendo.errors import UserError
from crescendo.models import LoadedWeights, create_model, load_weights
from crescendo.models.weights import torchvision_normalisation


class Small(nn.Module):
    """Two norms of the same shape, and a linear head."""

    def __init__(self, num_classes: int = 3, in_channels: int = 3, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, width, 3, bias=False), nn.BatchNorm2d(width))
        self.body = nn.Sequential(nn.Conv2d(width, width, 3, bias=False), nn.BatchNorm2d(width))
        self.head = nn.Linear(width, num_classes)


def random_state(net: nn.Module, seed: int = 0) -> OrderedDict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return OrderedDict(
        (key, torch.rand(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor + 7)
        for key, tensor in net.state_dict().items()
    )


def with_other_names(state: OrderedDict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """As another project would call the layers: layer0.weight, layer1.weight, layer1.bias, ..."""
    layers = list(dict.fromkeys(key.rpartition(".")[0] for key in state))
    return OrderedDict(
        (f"layer{layers.index(key.rpartition('.')[0])}.{key.rpartition('.')[2]}", tensor)
        for key, tensor in state.items()
    )


def saved(content: object, path: Path) -> str:
    torch.save(content, path)
    return str(path)


def holds(net: nn.Module, state: dict[str, Tensor]) -> bool:
    own = net.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in own)


@pytest.fixture
def state():
    return random_state(Small())


def refusal(net: nn.Module, source: str | Path) -> str:
    """The message; the net must be as it was."""
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_weights(net, source)
    assert holds(net, before)
    return str(caught.value)


def test_the_nets_own_names_load_in_any_order(state, tmp_path):
    net = Small()
    backwards = OrderedDict(reversed(state.items()))
    result = load_weights(net, saved(backwards, tmp_path / "own.pt"))
    assert result == LoadedWeights(loaded=tuple(state), fresh=())
    assert str(result) == "14 entries loaded"
    assert holds(net, state)


def test_other_names_load_in_registration_order(state, tmp_path):
    net = Small()
    assert load_weights(net, saved(with_other_names(state), tmp_path / "other.pth")).loaded == tuple(state)
    assert holds(net, state)


def test_within_a_layer_the_names_decide(state, tmp_path):
    """Old files put a norm's statistics before its weight, all of the same shape."""
    leaves = ["running_mean", "running_var", "weight", "bias", "num_batches_tracked"]
    stored = with_other_names(state)
    layers = list(dict.fromkeys(key.rpartition(".")[0] for key in stored))
    order = sorted(
        stored, key=lambda key: (layers.index(key.split(".")[0]), leaves.index(key.rpartition(".")[2]))
    )
    net = Small()
    load_weights(net, saved(OrderedDict((key, stored[key]) for key in order), tmp_path / "old.pth"))
    assert holds(net, state)


@pytest.mark.parametrize("rename", [with_other_names, OrderedDict])
def test_files_without_the_counters_of_norms(rename, state, tmp_path):
    stored = rename(state)
    for key in [key for key in stored if key.endswith("num_batches_tracked")]:
        del stored[key]
    net = Small()
    result = load_weights(net, saved(stored, tmp_path / "old.pth"))
    assert result.fresh == ()
    assert len(result.loaded) == 12
    assert net.stem[1].num_batches_tracked == 0
    assert torch.equal(net.body[1].running_var, state["body.1.running_var"])


@pytest.mark.parametrize("rename", [with_other_names, OrderedDict])
def test_with_another_number_of_classes_the_head_stays_fresh(rename, state, tmp_path):
    net = Small(num_classes=5)
    head = net.head.weight.clone()
    result = load_weights(net, saved(rename(state), tmp_path / "three.pth"))
    assert result.fresh == ("head.weight", "head.bias")
    assert result.loaded == tuple(state)[:-2]
    assert str(result) == ("12 entries loaded; head.weight, head.bias stay fresh, for other classes")
    assert torch.equal(net.head.weight, head)
    assert torch.equal(net.body[0].weight, state["body.0.weight"])


def test_auxiliary_heads_stay_fresh_too(tmp_path):
    """And not their hidden layers, nor the head's, where these are as wide as there are classes."""

    class WithAuxiliaryHead(nn.Module):
        def __init__(self, num_classes: int) -> None:
            super().__init__()
            self.auxiliary = nn.ModuleList([nn.Sequential(nn.Linear(4, 8), nn.Linear(8, num_classes))])
            self.head = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, num_classes))

    source = saved(random_state(WithAuxiliaryHead(3)), tmp_path / "three.pth")
    fresh = ("auxiliary.0.1.weight", "auxiliary.0.1.bias", "head.1.weight", "head.1.bias")
    assert load_weights(WithAuxiliaryHead(2), source).fresh == fresh
    assert load_weights(WithAuxiliaryHead(8), source, fresh_head=True).fresh == fresh


def test_a_head_that_contradicts_itself_is_refused(state, tmp_path):
    state["head.bias"] = torch.zeros(9)
    message = refusal(Small(num_classes=5), saved(state, tmp_path / "odd.pth"))
    assert "disagree about the number of classes: head.weight from [3, 4], head.bias from [9]" in message


def test_the_first_entry_that_differs_is_named(tmp_path):
    source = saved(random_state(Small(width=6)), tmp_path / "wide.pth")
    assert refusal(Small(), source) == (
        f"{source} does not fit Small: "
        "its stem.0.weight is [6, 3, 3, 3], and stem.0.weight expects [4, 3, 3, 3]."
    )


def test_weights_for_other_channels_are_refused(tmp_path):
    source = saved(with_other_names(random_state(Small(in_channels=1))), tmp_path / "grey.pth")
    assert "its layer0.weight is [4, 1, 3, 3], and stem.0.weight expects [4, 3, 3, 3]" in refusal(
        Small(), source
    )


def test_a_file_with_fewer_or_more_layers_is_refused(state, tmp_path):
    stored = with_other_names(state)
    short = OrderedDict(list(stored.items())[:-2])
    message = refusal(Small(), saved(short, tmp_path / "short.pth"))
    assert message.endswith("it ends before head.weight [3, 4], head.bias [3].")
    stored["more.weight"] = torch.zeros(2)
    message = refusal(Small(), saved(stored, tmp_path / "long.pth"))
    assert message.endswith("the net ends before its more.weight [2].")


def test_layers_of_another_kind_are_refused(state, tmp_path):
    stored = with_other_names(state)
    stored["layer0.bias"] = torch.zeros(4)
    message = refusal(Small(), saved(stored, tmp_path / "bias.pth"))
    assert "it has layer0.weight [4, 3, 3, 3], layer0.bias [4] where stem.0.weight" in message


def test_integers_are_no_weights(state, tmp_path):
    state["stem.0.weight"] = state["stem.0.weight"].to(torch.int8)
    assert "its stem.0.weight is [4, 3, 3, 3] of int8" in refusal(Small(), saved(state, tmp_path / "q.pth"))


def test_a_checkpoint_of_a_run_loads_its_net(state, tmp_path):
    entries = {f"net.{key}": tensor for key, tensor in state.items()} | {"loss.weight": torch.ones(3)}
    net = Small()
    load_weights(net, saved({"epoch": 3, "state_dict": entries, "loops": {}}, tmp_path / "best.ckpt"))
    assert holds(net, state)


def test_a_checkpoint_of_another_project_loads(state, tmp_path):
    net = Small()
    content = {"epoch": 3, "state_dict": with_other_names(state)}
    load_weights(net, saved(content, tmp_path / "checkpoint.pth.tar"))
    assert holds(net, state)


def test_a_path_may_be_one(state, tmp_path):
    saved(state, tmp_path / "own.pt")
    net = Small()
    load_weights(net, tmp_path / "own.pt")
    assert holds(net, state)


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_pickled_object_is_refused_and_not_executed(as_zip, state, tmp_path):
    source, target = tmp_path / "evil.pth", tmp_path / "executed"
    content = {**state, "x": Payload(target)}
    if as_zip:
        torch.save(content, source)
    else:
        source.write_bytes(pickle.dumps(content, protocol=2))
    message = refusal(Small(), source)
    assert str(source) in message
    assert "Nothing in it was executed." in message
    assert not target.exists()


def test_a_refused_object_is_named(state, tmp_path):
    source = saved({"state_dict": state, "args": Namespace(lr=1)}, tmp_path / "args.pth")
    assert f"{source} was refused: it asks for the Python object argparse.Namespace" in refusal(
        Small(), source
    )


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 0.3, 0.9])
def test_a_damaged_file_is_refused(suffix, keep, state, tmp_path):
    source = tmp_path / f"damaged{suffix}"
    save_file(dict(state), source) if suffix == ".safetensors" else torch.save(state, source)
    source.write_bytes(source.read_bytes()[: int(source.stat().st_size * keep)])
    assert f"weights={source} cannot be read: it is damaged" in refusal(Small(), source)


@pytest.mark.parametrize("content", [b"<html>404</html>", b"\x80\x02}", bytes(1000)])
def test_a_file_of_something_else_is_refused(content, tmp_path):
    source = tmp_path / "page.pth"
    source.write_bytes(content)
    assert f"weights={source} cannot be read" in refusal(Small(), source)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ([1, 2], "holds list"),
        ({}, "holds dict"),
        ({"epoch": 1}, "its 'epoch' is int"),
        ({1: torch.ones(1)}, "its 1 is Tensor"),
    ],
)
def test_what_is_not_a_state_dict_is_refused(content, why, tmp_path):
    assert why in refusal(Small(), saved(content, tmp_path / "list.pth"))


def test_safetensors(state, tmp_path):
    save_file(dict(state), tmp_path / "own.safetensors")
    net = Small()
    assert load_weights(net, tmp_path / "own.safetensors").fresh == ()
    assert holds(net, state)


def test_safetensors_of_other_names_are_refused_since_they_are_sorted(state, tmp_path):
    save_file(dict(with_other_names(state)), tmp_path / "other.safetensors")
    message = refusal(Small(), tmp_path / "other.safetensors")
    assert "stem.0.weight is in one of them only" in message
    assert "names must be the net's own" in message


def test_safetensors_without_the_package(state, tmp_path, monkeypatch):
    save_file(dict(state), tmp_path / "own.safetensors")
    real_import = builtins.__import__

    def without_safetensors(name, *arguments, **options):
        if name.startswith("safetensors"):
            raise ImportError(name)
        return real_import(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_safetensors)
    assert "pip install 'crescendo[weights]'" in refusal(Small(), tmp_path / "own.safetensors")


def test_a_file_that_is_not_there_offers_the_nearest(state, tmp_path):
    saved(state, tmp_path / "resnet50.pth")
    message = refusal(Small(), tmp_path / "resnet_50.pth")
    assert "there is no such file. Did you mean resnet50.pth?" in message
    assert "ResNet50_Weights.IMAGENET1K_V2" in message
    assert "is a directory" in refusal(Small(), tmp_path)


def test_a_net_without_storage_is_refused(state, tmp_path):
    with torch.device("meta"):
        net = Small()
    with pytest.raises(ValueError, match="meta device"):
        load_weights(net, saved(state, tmp_path / "own.pt"))


def test_the_memory_format_and_the_dtype_stay(state, tmp_path):
    net = Small().to(torch.float64, memory_format=torch.channels_last)
    load_weights(net, saved(state, tmp_path / "own.pt"))
    assert net.body[0].weight.dtype == torch.float64
    assert net.body[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.fixture
def torchvision_cache(tmp_path, monkeypatch):
    """Where torchvision keeps what it has downloaded; the network is not there."""

    def no_network(url, *arguments, **options):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def test_a_weights_enum_of_torchvision(torchvision_cache):
    short = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=1000)
    stored = random_state(short)
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    torch.save(stored, torchvision_cache / Path(url).name)

    net = create_model("resnet18", num_classes=10, depth=0.5)
    result = load_weights(net, "ResNet18_Weights.IMAGENET1K_V1")
    assert result.fresh == ("head.weight", "head.bias")
    loaded = [net.state_dict()[key] for key in result.loaded]
    assert all(
        torch.equal(own, tensor) for own, tensor in zip(loaded, list(stored.values())[:-2], strict=True)
    )


def test_a_download_that_fails_says_what_to_bring(torchvision_cache):
    message = refusal(Small(), "ResNet18_Weights.IMAGENET1K_V1")
    assert re.search(
        r"could not be loaded from https://\S+/resnet18-\w+\.pth \(.*no network in tests", message
    )
    assert "bring that file" in message


def test_a_cached_download_is_not_executed_either(torchvision_cache, tmp_path):
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    torch.save({"x": Payload(tmp_path / "executed")}, torchvision_cache / Path(url).name)
    refusal(Small(), "ResNet18_Weights.IMAGENET1K_V1")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("ResNet50_Weights.IMAGENET1K_V3", "ResNet50_Weights.IMAGENET1K_V2"),
        ("Resnet50_Weights.IMAGENET1K_V2", "ResNet50_Weights.IMAGENET1K_V2"),
    ],
)
def test_a_wrong_enum_name_offers_the_nearest(wrong, right):
    message = refusal(Small(), wrong)
    assert f"torchvision has no weights {wrong}. Did you mean" in message
    assert right in message


def test_a_head_stays_fresh_where_that_is_asked_for(tmp_path):
    """With as many classes, too: they may be others."""
    source, net = create_model("lenet5_modern", num_classes=4), create_model("lenet5_modern", num_classes=4)
    fresh = net.output.weight.clone()
    torch.save(source.state_dict(), tmp_path / "source.pth")
    assert load_weights(net, tmp_path / "source.pth", fresh_head=True).fresh == (
        "output.weight",
        "output.bias",
    )
    assert torch.equal(net.output.weight, fresh)
    assert torch.equal(net.f6.weight, source.f6.weight)
    assert load_weights(net, tmp_path / "source.pth").fresh == ()
    assert torch.equal(net.output.weight, source.output.weight)


def test_torchvisions_weights_have_seen_images_normalised_in_two_ways():
    """0.5 for what came from TensorFlow; torchvision's GoogLeNet changes its input itself."""
    imagenet = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    halves = [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]
    assert torchvision_normalisation("ResNet50_Weights.IMAGENET1K_V2") == imagenet
    assert torchvision_normalisation("EfficientNet_V2_L_Weights.IMAGENET1K_V1") == halves
    assert torchvision_normalisation("GoogLeNet_Weights.IMAGENET1K_V1") == halves
