"""How the seconds of training grow with its images, and a step's with its pixels.

    python benchmarks/lengths.py

ResNet-20 is trained through crescendo, in batches of 128. Trainings of 1, 2 and 4 times the images go on side
by side in one process, a turn of 1, 2 and 4 steps at a time, so that what slows the machine slows all of
them; the start-up, which is the same for all, is not timed. Given are medians over --rounds, with the lowest
and the highest.
"""

import argparse
from statistics import median

import torch
from engine import BATCH_SIZE, SETTINGS, Bench
from timing import describe_machine
from turns import in_turns

SETTING = SETTINGS["resnet20"]
TIMES = (1, 2, 4)
PIXELS = (16, 24, 32, 48, 64)
STEPS = 4  # at each size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cpu")
    print(f"{describe_machine(device, arguments.threads)}; medians of {arguments.rounds} rounds\n")
    print(by_images(arguments.rounds, device), flush=True)
    print(by_pixels(arguments.rounds, device))


def by_images(rounds: int, device: torch.device) -> str:
    benches = [Bench(SETTING.overrides, device, turns=SETTING.turns, steps_a_turn=times) for times in TIMES]
    taken = [in_turns([bench.crescendo for bench in benches]) for _ in range(rounds)]
    lines = []
    for times, column in zip(TIMES, zip(*taken, strict=True), strict=True):
        over_one = [each.seconds / first.seconds for each, (first, *_) in zip(column, taken, strict=True)]
        lines.append(
            f"{times * SETTING.turns * BATCH_SIZE} images: {median(each.seconds for each in column):.2f} s, "
            f"{median(over_one):.3f} ({min(over_one):.3f} to {max(over_one):.3f}) times the first"
        )
    return "\n".join(lines)


def by_pixels(rounds: int, device: torch.device) -> str:
    lines = []
    for pixels in PIXELS:
        sizes = (f"data.native_size={pixels}", f"curriculum.resolution={{start:{pixels},end:{pixels}}}")
        bench = Bench((*SETTING.overrides, *sizes), device, turns=STEPS, steps_a_turn=1)
        step = median(in_turns([bench.crescendo])[0].seconds / STEPS for _ in range(rounds))
        lines.append(
            f"{pixels} px: {1e3 * step:.1f} ms a step, {1e9 * step / BATCH_SIZE / pixels**2:.0f} ns a pixel"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
