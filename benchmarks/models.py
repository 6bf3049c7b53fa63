"""Our nets against torchvision's: time and peak memory of a forward pass and of a training step.

    python benchmarks/models.py --resolution 128 --batch-size 8 --threads 1 [--nets resnet50 ...]

Ours, theirs and a copy of theirs run in a process of their own, with the same weights, in
channels_last and float32, in turns and in another order each time. A ratio is the median over the turns
of ours / theirs of one turn, and its spread the quartiles; that of the copy / theirs is the control: its
distance from 1 is noise. Memory is what the process allocates beyond the net and the images, at its
highest: on the CPU from the profiler's memory events, on a GPU the allocator's peak. Forward is
inference mode; a training step is forward, loss, backward, with the published rates of dropout.
"""

import argparse
import copy
import json
import subprocess
import sys
from statistics import median
from typing import NamedTuple

import torch
import torchvision
from timing import TASKS, Step, describe_machine, spread, step, time_in_turns
from torch import nn

from crescendo.analysis.memory import allocator_peak
from crescendo.models import create_model

THEIRS = {
    "resnet50": "resnet50",
    "vgg16": "vgg16",
    "googlenet_bn": "googlenet",
    "mobilenet_v2": "mobilenet_v2",
    "efficientnet_b0": "efficientnet_b0",
    "efficientnet_v2_s": "efficientnet_v2_s",
}


class Result(NamedTuple):
    """Of one net and task: seconds of each turn, for (ours, theirs, the copy of theirs), and peak bytes."""

    net: str
    task: str
    seconds: list[list[float]]
    peak_bytes: tuple[int, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=THEIRS, default=list(THEIRS))
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--turns", type=int, default=9, help="timed turns, after one to warm up")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--in-this-process", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.in_this_process:
        torch.set_num_threads(arguments.threads)
        print(json.dumps([result for net in arguments.nets for result in compare(net, arguments)]))
        return
    print(describe(arguments), end="\n\n")
    print("| net | task | ours, ms | time, ours / theirs | control | ours, MB | memory, ours / theirs |")
    print("|---|---|---|---|---|---|---|")
    for net in arguments.nets:
        command = [sys.executable, __file__, *sys.argv[1:], "--in-this-process", "--nets", net]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        for result in json.loads(output.splitlines()[-1]):
            print(row(Result(*result)), flush=True)


def describe(arguments: argparse.Namespace) -> str:
    """Hardware, versions and settings."""
    device = torch.device(arguments.device)
    return (
        f"{describe_machine(device, arguments.threads)}, "
        f"torchvision {torchvision.__version__}; {arguments.resolution} px, batch of "
        f"{arguments.batch_size}, channels_last, float32, {arguments.turns} turns."
    )


def row(result: Result) -> str:
    """A row of the markdown table."""
    milliseconds = 1e3 * median(ours for ours, _, _ in result.seconds)
    ratio = spread([ours / theirs for ours, theirs, _ in result.seconds])
    control = spread([control / theirs for _, theirs, control in result.seconds])
    ours, theirs = result.peak_bytes
    return (
        f"| {result.net} | {result.task} | {milliseconds:.0f} | {ratio} | {control} "
        f"| {ours / 1e6:.1f} | {ours / theirs:.3f} |"
    )


def compare(name: str, arguments: argparse.Namespace) -> list[Result]:
    """Time and memory of one net and torchvision's."""
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    ours = create_model(name)
    theirs = torchvision.models.get_model(THEIRS[name], **unpretrained(name))
    weights = zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    for mine, source in weights:  # in the order of registration, which is the same
        mine.copy_(source)
    shape = (arguments.batch_size, 3, arguments.resolution, arguments.resolution)
    images = torch.randn(shape, device=device).to(memory_format=torch.channels_last)
    labels = torch.arange(arguments.batch_size, device=device)
    contenders = (ours, theirs, copy.deepcopy(theirs))
    nets = [net.to(device=device, memory_format=torch.channels_last) for net in contenders]
    results = []
    for task in TASKS:
        steps = [step(task, net, images, labels) for net in nets]
        seconds = time_in_turns(steps, arguments.turns, device)
        peaks = [peak_memory(steps[which], nets[which], device) for which in (0, 1)]
        results.append(Result(name, task, seconds, (peaks[0], peaks[1])))
    return results


def unpretrained(name: str) -> dict[str, bool]:
    return {"init_weights": True} if name.startswith("googlenet") else {}


def peak_memory(step: Step, net: nn.Module, device: torch.device) -> int:
    """Bytes at their highest, beyond those in use before the step."""
    net.zero_grad()
    return allocator_peak(step, device)


if __name__ == "__main__":
    main()
