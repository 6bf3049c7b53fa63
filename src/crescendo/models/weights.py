"""Weights from a file, or by the name of a torchvision weights enum, into a net: strictly.

A file is read as data: torch.load(weights_only=True), or safetensors. Entries are matched by their
names where these are the net's own; else layer by layer in the order of registration, which for the
nets that torchvision has is torchvision's. Within a layer the names decide (weight, bias,
running_mean, running_var), since old files hold them in another order and their shapes are equal.
"""

import pickle
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import torch
from torch import Tensor, nn

from crescendo.errors import UserError, did_you_mean

Entries = Mapping[str, Tensor]

ENUM = re.compile(r"\w*Weights\.[A-Z0-9_]+")
COUNTER = "num_batches_tracked"  # files older than torch 0.4.1 have none; our norms do not use it


@dataclass(frozen=True)
class LoadedWeights:
    """What load_weights did: names of entries of the net's state_dict().

    `fresh` are those of its output layers, left as they were initialised, since the source has
    other classes; empty if everything was loaded.
    """

    loaded: tuple[str, ...]
    fresh: tuple[str, ...]

    def __str__(self) -> str:
        fresh = f"; {', '.join(self.fresh)} stay fresh, for other classes" if self.fresh else ""
        return f"{len(self.loaded)} entries loaded{fresh}"


def load_weights(net: nn.Module, source: str | Path, *, fresh_head: bool = False) -> LoadedWeights:
    """Fill `net` from a file or from a torchvision weights enum ("ResNet50_Weights.IMAGENET1K_V2").

    Its output layers stay fresh where the source has another number of classes, and under `fresh_head` also
    where it has as many.

    Files: .pt, .pth and the like, .safetensors (own names only, since that format sorts them), and
    checkpoints of a run, whose net is the averaged one where the run averaged weights.
    Raises UserError, with the net as it was, for a source that cannot be read or does not fit; the
    message names the first entry that differs and what was expected.
    """
    own: Entries = net.state_dict()
    if any(tensor.is_meta for tensor in own.values()):
        raise ValueError("the net is on the meta device and holds no weights: net.to_empty(...) first")
    entries, in_order = _read(str(source))
    misfit = f"{source} does not fit {getattr(net, 'name', '') or type(net).__name__}"
    if _without_counters(own) == _without_counters(entries):
        pairs: Iterator[tuple[str, str]] = ((key, key) for key in own if key in entries)
    elif in_order:
        pairs = _pairs_in_order(own, entries, misfit)
    else:
        differing = _without_counters(own) ^ _without_counters(entries)
        key = next(key for key in (*own, *entries) if key in differing)
        raise UserError(
            f"{misfit}: {key} is in one of them only. A .safetensors file has lost the order of its "
            "entries, so their names must be the net's own. A .pth file keeps the order."
        )

    outputs, new, fresh = _output_layers(net), {}, {}
    for key, name in pairs:
        expected, stored = own[key], entries[name]
        is_output = _layer(key) in outputs
        same_kind = stored.is_floating_point() == expected.is_floating_point()
        if stored.shape == expected.shape and same_kind and not (fresh_head and is_output):
            new[key] = stored
        elif is_output and stored.shape[1:] == expected.shape[1:]:
            fresh[key] = stored
        else:
            raise UserError(
                f"{misfit}: its {name} is {_describe(stored)}, and {key} expects {_describe(expected)}."
            )
    whole_layers = {key for key in own if _layer(key) in {_layer(key) for key in fresh}}
    if fresh.keys() != whole_layers or len({stored.shape[:1] for stored in fresh.values()}) > 1:
        raise UserError(
            f"{misfit}: its output layers disagree about the number of classes: "
            + ", ".join(f"{key} from {_describe(stored)}" for key, stored in fresh.items())
        )
    net.load_state_dict(new, strict=False)
    return LoadedWeights(loaded=tuple(new), fresh=tuple(fresh))


def _pairs_in_order(own: Entries, entries: Entries, misfit: str) -> Iterator[tuple[str, str]]:
    """Own name and stored name of each entry, layer by layer; UserError at the first that differs."""
    for ours, theirs in zip_longest(_by_layer(own), _by_layer(entries)):
        if theirs is None:
            raise UserError(f"{misfit}: it ends before {_list(ours, own)}.")
        if ours is None:
            raise UserError(f"{misfit}: the net ends before its {_list(theirs, entries)}.")
        if ours.keys() - {COUNTER} != theirs.keys() - {COUNTER}:
            raise UserError(
                f"{misfit}: it has {_list(theirs, entries)} where {_list(ours, own)} is expected."
            )
        yield from ((key, theirs[leaf]) for leaf, key in ours.items() if leaf in theirs)


def _by_layer(entries: Entries) -> list[dict[str, str]]:
    """For each layer, in order of appearance, the last part of an entry's name -> the name."""
    layers: dict[str, dict[str, str]] = {}
    for key in entries:
        layers.setdefault(_layer(key), {})[key.rpartition(".")[2]] = key
    return list(layers.values())


def _layer(key: str) -> str:
    return key.rpartition(".")[0]


def _without_counters(entries: Entries) -> set[str]:
    return {key for key in entries if key.rpartition(".")[2] != COUNTER}


def _output_layers(net: nn.Module) -> set[str]:
    """The last linear layer, and that of each auxiliary head: hidden ones may be as wide."""
    linear = [name for name, layer in net.named_modules() if isinstance(layer, nn.Linear)]
    of_auxiliary: dict[str, str] = {}
    for name in linear:
        if name.startswith("auxiliary."):
            of_auxiliary[name.split(".")[1]] = name
    return {*of_auxiliary.values(), *linear[-1:]}


def _describe(tensor: Tensor) -> str:
    dtype = "" if tensor.is_floating_point() else f" of {str(tensor.dtype).removeprefix('torch.')}"
    return f"{list(tensor.shape)}{dtype}"


def _list(layer: Mapping[str, str], entries: Entries) -> str:
    return ", ".join(f"{key} {_describe(entries[key])}" for leaf, key in layer.items() if leaf != COUNTER)


def _read(source: str) -> tuple[Entries, bool]:
    """The entries, and whether they are in the order in which they were registered."""
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix == ".safetensors":
            return _read_safetensors(path), False
        return _read_torch(path), True
    if path.is_dir():
        raise UserError(
            f"weights={source} is a directory, and not that of a run. Name a run, or a file of weights."
        )
    if ENUM.fullmatch(source):
        return _fetch_torchvision(source), True
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    raise UserError(
        f"weights={source}: there is no such file.{did_you_mean(path.name, beside)} It can also be the name "
        "of a torchvision weights enum, such as ResNet50_Weights.IMAGENET1K_V2."
    )


def _read_torch(path: Path) -> Entries:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(_unreadable(path, error)) from error
    return _entries(content, path)


def _unreadable(path: Path, error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError) and (found := re.search(r"GLOBAL (\S+)", str(error))):
        return (
            f"weights={path} was refused: it asks for the Python object {found[1]}, and weights are "
            "tensors and plain containers. Nothing in it was executed."
        )
    return (
        f"weights={path} cannot be read: it is damaged, or not a file of weights. Nothing in it was executed."
    )


def _read_safetensors(path: Path) -> Entries:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(
            f"weights={path} needs the package safetensors: pip install 'crescendo[weights]'"
        ) from error
    try:
        return load_file(path)
    except Exception as error:
        raise UserError(_unreadable(path, error)) from error


def _entries(content: object, path: Path) -> Entries:
    """The state dict in a file: as it is, or of a checkpoint, there without the classifier's prefix."""
    if isinstance(content, Mapping) and isinstance(inside := content.get("state_dict"), Mapping):
        of_net = {key[4:]: value for key, value in inside.items() if str(key).startswith("net.")}
        content = of_net or inside
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"weights={path} holds {type(content).__name__}, not a state dict of tensors.")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(
                f"weights={path} is not a state dict of tensors: its {key!r} is {type(value).__name__}."
            )
    return content


def _fetch_torchvision(name: str) -> Entries:
    """From torchvision's cache, or else from the network."""
    from torchvision.models import get_model_weights, get_weight, list_models

    try:
        weights = get_weight(name)
    except (KeyError, ValueError) as error:
        options = [str(option) for model in list_models() for option in get_model_weights(model)]
        raise UserError(f"torchvision has no weights {name}.{did_you_mean(name, options)}") from error
    try:
        return weights.get_state_dict(check_hash=True, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"weights={name} could not be loaded from {weights.url} ({error}). "
            "Where there is no network, bring that file and give its path."
        ) from error


def torchvision_normalisation(name: str) -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel, for images in 0..1, that torchvision's weights were trained with.

    GoogLeNet's have the 0.5 of their origin in TensorFlow, to which torchvision's own net changes its input.
    """
    from torchvision.models import get_weight

    try:
        transform = get_weight(name).transforms()
    except (KeyError, ValueError):
        return [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # there are none: load_weights says so
    if name.startswith("GoogLeNet"):
        return [0.5] * 3, [0.5] * 3
    return list(transform.mean), list(transform.std)
