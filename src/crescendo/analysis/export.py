"""Nets as files that other programs run: ONNX, torch.export's .pt2, safetensors.

The first two hold a graph from images to logits, with the normalisation in it and any batch size at one
resolution; safetensors holds the weights by the net's own names. Each carries its metadata.
"""

import copy
import importlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from crescendo.analysis.choices import Format
from crescendo.errors import UserError

INPUT, OUTPUT = "images", "logits"
METADATA = "metadata.json"  # in a .pt2
BATCH_SIZES = (1, 3)  # that are checked
PACKAGES: dict[Format, Sequence[str]] = {
    Format.ONNX: ("onnxscript", "onnxruntime"),
    Format.EXPORT: (),
    Format.SAFETENSORS: ("safetensors",),
}
TOLERANCE = 1e-4  # of the largest logit: float32 rounds to 1e-7, and a deep net adds many
ROUNDINGS = 10


class Deployed(nn.Module):
    """Images [N, C, R, R] in 0..1 -> logits [N, num_classes], normalised here; in eval mode, for inference.

    Takes the net over: its parameters need no gradients any more, and its memory format is the default.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.net = net.eval().requires_grad_(False).to(memory_format=torch.contiguous_format)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        return self.net((images - self.mean) / self.std)


def check_extra(form: Format) -> None:
    """See that what a format needs is installed.

    Raises:
        UserError: names the extra.
    """
    try:
        for package in PACKAGES[form]:
            importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise UserError(
            f'--format {form} needs the package {error.name}: pip install "crescendo[export]".'
        ) from error


def write(form: Format, deployed: Deployed, images: Tensor, metadata: Mapping[str, str], path: Path) -> None:
    """Write a net in a format; `images` [2 or more, C, R, R] give the graph its resolution."""
    if form is Format.SAFETENSORS:
        from safetensors.torch import save

        weights = {name: tensor.contiguous() for name, tensor in deployed.net.state_dict().items()}
        path.write_bytes(save(weights, dict(metadata)))  # its own file would be readable by its owner alone
        return
    shapes = {INPUT: {0: torch.export.Dim("batch")}}
    with _own_warnings_ignored():
        program = torch.export.export(deployed, (images,), dynamic_shapes=shapes)
        if form is Format.EXPORT:
            torch.export.save(program, path, extra_files={METADATA: json.dumps(dict(metadata), indent=2)})
            return
        onnx = torch.onnx.export(
            program,
            (images,),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
    assert onnx is not None
    onnx.model.metadata_props.update(metadata)
    onnx.save(path, external_data=False)


def read(form: Format, path: Path, fresh: Deployed) -> Callable[[Tensor], Tensor]:
    """A function from images to logits that runs what is in a file.

    Args:
        fresh: takes the weights of a safetensors file; the other formats need no net.
    """
    if form is Format.ONNX:
        from onnxruntime import InferenceSession

        session = InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])
    if form is Format.EXPORT:
        with _own_warnings_ignored():
            return torch.export.load(path).module()
    from safetensors.torch import load_file

    fresh.net.load_state_dict(load_file(path))
    return fresh


def largest_difference(answer: Callable[[Tensor], Tensor], deployed: Deployed, images: Tensor) -> float:
    """The largest difference of a logit, over the batch sizes, as a share of the largest logit.

    Args:
        images: [N, C, R, R] in 0..1, as many as the largest batch.
    """
    worst = 0.0
    for count in BATCH_SIZES:
        with torch.no_grad():
            expected, given = deployed(images[:count]), answer(images[:count])
        worst = max(worst, float((given - expected).abs().max() / expected.abs().max()))
    return worst


def allowed_difference(deployed: Deployed, images: Tensor) -> float:
    """TOLERANCE; more for a net that rounding alone moves further, such as one that has hardly trained.

    Then it is ROUNDINGS times the difference between the net in float32 and in float64.
    """
    precise = copy.deepcopy(deployed).double()
    return max(
        TOLERANCE, ROUNDINGS * largest_difference(lambda batch: precise(batch.double()), deployed, images)
    )


@contextmanager
def _own_warnings_ignored() -> Iterator[None]:
    """Without what torch.export says about its own code."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*isinstance.*LeafSpec.*", FutureWarning)
        yield
