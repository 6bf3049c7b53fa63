"""Where to fuse: an EfficientNet with none, 3, 5 and 7 of its stages Fused-MBConv, timed.

    python benchmarks/fused.py --net efficientnet_b4 --resolution 380 --batch-size 64 --precision bf16

Table 3 of Tan & Le 2021 (arXiv:2104.00298, section 3.2). The nets run in one process, in turns, each turn
beginning with another; told are medians and quartiles over the turns. A training step is forward, loss,
backward and SGD with momentum, at the published rates of dropout and drop path; forward is inference
mode. "over none" is images/s over those of the net without fused stages, within a turn, beside the paper's
TPU and V100, which are B4's. bf16 is autocast; float32 on a GPU leaves convolutions in TF32, torch's
default. There, cuDNN tries its algorithms in the turn that warms up.
"""

import argparse
import inspect
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import torch
from timing import TASKS, describe_machine, spread, step, time_in_turns

from crescendo.analysis.costs import count_macs, count_parameters
from crescendo.analysis.plan import short_number
from crescendo.models import create_model, list_models
from crescendo.models.registry import find_entry

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}


class Published(NamedTuple):
    """A row of Table 3: millions of parameters, billions of FLOPs, images/s of a TPU core and of a V100."""

    parameters: float
    flops: float
    tpu: int
    v100: int


# EfficientNet-B4 by its fused stages; without its top-1 accuracy: 82.8, 83.1, 83.1, 81.7%.
TABLE_3 = {
    0: Published(19.3, 4.5, 262, 155),
    3: Published(20.0, 7.5, 362, 216),
    5: Published(43.4, 21.3, 327, 223),
    7: Published(132.0, 34.4, 254, 206),
}


class Result(NamedTuple):
    """Of one net: its costs, and by task the seconds of each turn, its own and those of the net with none."""

    fused_stages: int
    parameters: int
    macs: int
    seconds: dict[str, list[float]]
    none: dict[str, list[float]]


def main() -> None:
    nets = [name for name in list_models("efficientnet_b*") if _can_fuse(name)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--net", choices=nets, default="efficientnet_b0")
    parser.add_argument("--resolution", type=int, help="px; the net's own if not given")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--turns", type=int, default=9, help="timed turns, after one to warm up")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.backends.cudnn.benchmark = True
    device = torch.device(arguments.device)
    resolution = arguments.resolution or find_entry(arguments.net).build().resolution
    print(
        f"{arguments.net} on {describe_machine(device, arguments.threads)}; {resolution} px, batch of "
        f"{arguments.batch_size}, channels_last, {arguments.precision}, {arguments.turns} turns.",
        end="\n\n",
    )
    print(heading())
    for result in measure(
        arguments.net,
        resolution,
        arguments.batch_size,
        turns=arguments.turns,
        device=device,
        precision=PRECISIONS[arguments.precision],
    ):
        print(row(result, arguments.batch_size))


def measure(
    name: str,
    resolution: int,
    batch_size: int,
    *,
    turns: int,
    device: torch.device,
    precision: torch.dtype = torch.float32,
) -> list[Result]:
    """The nets of Table 3, in its order."""
    torch.manual_seed(0)
    images = torch.randn(batch_size, 3, resolution, resolution, device=device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.arange(batch_size, device=device)
    nets = [create_model(name, fused_stages=count) for count in TABLE_3]
    costs = [(count_parameters(net), count_macs(net, resolution)) for net in nets]
    nets = [net.to(device=device, memory_format=torch.channels_last) for net in nets]
    seconds: list[dict[str, list[float]]] = [{} for _ in nets]
    for task in TASKS:
        steps = [
            step(
                task,
                net,
                images,
                labels,
                optimizer=torch.optim.SGD(net.parameters(), lr=0.0, momentum=0.9),  # random weights stay
                precision=precision,
            )
            for net in nets
        ]
        for taken, own in zip(seconds, zip(*time_in_turns(steps, turns, device), strict=True), strict=True):
            taken[task] = list(own)
    return [
        Result(count, *cost, taken, seconds[0])
        for count, cost, taken in zip(TABLE_3, costs, seconds, strict=True)
    ]


def heading() -> str:
    timed = [name for task in TASKS for name in (f"{task}, ms", "images/s", "over none")]
    published = ["paper: parameters", "FLOPs", "TPU over none", "V100 over none"]
    columns = ["fused stages", "parameters", "MACs", *timed, *published]
    return f"{_line(columns)}\n{_line(['---'] * len(columns))}"


def row(result: Result, batch_size: int) -> str:
    """A row of the markdown table."""
    timed = []
    for task in TASKS:
        mine, first = result.seconds[task], result.none[task]
        timed += [
            spread([1e3 * seconds for seconds in mine], 1),
            f"{batch_size / median(mine):.0f}",
            spread([none / seconds for none, seconds in zip(first, mine, strict=True)], 2),
        ]
    paper, none = TABLE_3[result.fused_stages], TABLE_3[0]
    published = [
        f"{paper.parameters:.1f}M",
        f"{paper.flops:.1f}B",
        f"{paper.tpu / none.tpu:.2f}",
        f"{paper.v100 / none.v100:.2f}",
    ]
    costs = [short_number(result.parameters), short_number(result.macs)]
    return _line([str(result.fused_stages or "none"), *costs, *timed, *published])


def _can_fuse(name: str) -> bool:
    return "fused_stages" in inspect.signature(find_entry(name).build).parameters


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
