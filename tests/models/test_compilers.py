"""What holds for the nets under torch.export, torch.compile and the channels_last memory format.

Tracing takes seconds a net: one of each kind is traced always, all of them in the slow tests.
That the nets compile in train mode is in their families' tests.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from crescendo.models import create_model, list_models
from crescendo.models.layers import Net, WithAuxiliary, set_drop_path

UNSCALED = {"lenet5", "lenet5_modern", *list_models("alexnet*"), *list_models("*googlenet*")}
CIFAR = {"plain20", "plain56", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110", "resnet1202"}

QUICK = ("lenet5", "lenet5_modern", "resnet20", "se_googlenet", "mobilenet_v2")
NETS = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in list_models()]

# The others' heads flatten maps of several pixels: a transposition by definition.
DEEP = ("resnet110", "resnet1202", "efficientnet_b7", "efficientnet_v2_l", "efficientnet_v2_xl")
GLOBALLY_POOLED = [
    pytest.param(name, marks=pytest.mark.slow) if name in DEEP else name
    for name in list_models()
    if not name.startswith(("lenet", "alexnet", "vgg"))
]

# Those that benchmarks/models.py measures against torchvision's.
INDUCTOR = ("resnet50", "vgg16", "googlenet_bn", "mobilenet_v2", "efficientnet_b0", "efficientnet_v2_s")


def small(name: str) -> Net:
    """A quarter of the width and half of each stage's blocks, rounded up, where the builder takes them."""
    torch.manual_seed(0)
    if name in UNSCALED:
        scale = {}
    elif name in CIFAR:
        scale = {"width": 4}
    else:
        scale = {"width": 0.25, "depth": 0.5}
    net = create_model(name, num_classes=10, in_channels=3, **scale)
    set_drop_path(net, 0.1)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        net(images(net))  # with statistics of no images, 1,202 layers overflow in eval mode
    return net


def images(net: Net, resolution: int = 8) -> Tensor:
    """Two, of that resolution or of the net's smallest."""
    side = max(net.min_resolution, resolution)
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _without_compiled_code():
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("name", NETS)
def test_exports(name):
    net = small(name).eval()
    x = images(net)
    torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), net(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_exports_as_published(name):
    with torch.device("meta"):
        net = create_model(name, in_channels=3).eval()
        x = images(net).to("meta")
    exported = torch.export.export(net, (x,))
    assert exported.module()(x).shape == net(x).shape


@pytest.mark.parametrize("name", NETS)
def test_compiles_for_inference_without_a_graph_break(name):
    net = small(name).eval()
    x = images(net)
    with torch.no_grad():
        logits = torch.compile(net, backend="eager", fullgraph=True)(x)
        torch.testing.assert_close(logits, net(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", INDUCTOR)
def test_inductor_gives_the_same_logits_and_gradients(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # a killed run leaves broken files
    # In float64: batch norm over two images' last maps blows float32's rounding up to visible gradients.
    net = small(name).double()
    x = images(net, 64).double()
    # Random numbers as eager draws them, so that the same features are dropped.
    compiled = torch.compile(net, fullgraph=True, options={"fallback_random": True})
    with torch.no_grad():
        torch.testing.assert_close(compiled.eval()(x), net.eval()(x), rtol=1e-9, atol=1e-9)
    net.train()
    gradients = []
    for forward in (compiled, net):
        torch.manual_seed(2)
        loss_of(forward(x)).backward()
        gradients.append([parameter.grad for parameter in net.parameters()])
        net.zero_grad(set_to_none=True)
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)


def loss_of(output: Tensor | WithAuxiliary) -> Tensor:
    heads = (output.logits, *output.auxiliary) if isinstance(output, WithAuxiliary) else (output,)
    return sum(F.cross_entropy(logits, torch.arange(len(logits))) for logits in heads)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", GLOBALLY_POOLED)
def test_channels_last_stays(name, train):
    net = small(name).train(train).to(memory_format=torch.channels_last)
    x = images(net, 64).contiguous(memory_format=torch.channels_last)
    names = {layer: name for name, layer in net.named_modules()}
    seen, transposed = [], []

    def look(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor | WithAuxiliary) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            seen.append(names[layer])
            if not output.is_contiguous(memory_format=torch.channels_last):
                transposed.append(names[layer])

    for layer in net.modules():
        layer.register_forward_hook(look)
    with torch.set_grad_enabled(train):
        net(x)
    assert seen
    assert transposed == []


class _Transposed(TorchDispatchMode):
    """Notes the operators that make or take a map whose channels do not lie side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = 0
        self.operators: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, output)):
            if isinstance(leaf, Tensor) and leaf.ndim == 4 and min(leaf.shape[1:3]) > 1:
                self.maps += 1
                if leaf.stride(1) != 1:
                    self.operators.add(f"{func} {tuple(leaf.shape)}")
        return output


@pytest.mark.parametrize("name", GLOBALLY_POOLED)
def test_channels_last_stays_in_the_backward_pass(name):
    net = small(name).to(memory_format=torch.channels_last)
    output = net(images(net, 64).contiguous(memory_format=torch.channels_last))
    # Auxiliary heads flatten maps of 4x4 pixels, so that theirs are transposed by definition.
    logits = output.logits if isinstance(output, WithAuxiliary) else output
    with _Transposed() as transposed:
        F.cross_entropy(logits, torch.arange(2)).backward()
    assert transposed.maps
    assert transposed.operators == set()
