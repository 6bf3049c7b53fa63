"""What an image costs to load, over torchvision's reference: files and packs, at each resolution.

    python benchmarks/data.py [--images 256] [--rounds 7] [--resolutions 64,96,128,160,192,224,288]

The images are JPEGs of ImageNet's sizes and about its bytes, made up by the statistics of photographs:
noise of a spectrum of 1/f, and edges. Each variant makes training batches of 32 in one thread; the
reference is Image.open, v2.RandomResizedCrop, v2.RandomHorizontalFlip, a uint8 tensor each, and their stack.
The variants take turns on the same images, so that they share whatever else the machine does. Told are the
median CPU time over the turns, and the median over turns of the ratio to the reference's of the same turn.
"""

import argparse
import itertools
import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import datasets
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as vision

from crescendo.data import Augmentation, Transform, jpeg
from crescendo.data.folders import folder
from crescendo.data.images import Images
from crescendo.data.packing import build_pack, plan_pack
from crescendo.data.packs import packed
from crescendo.data.sampler import Draws
from crescendo.data.transforms import random_crop

RESOLUTIONS = (64, 96, 128, 160, 192, 224, 288)
LEVELS = (112, 160, 224, 288)
AREA = (0.08, 1.0)
MAGNITUDE = 9.0  # where RandAugment is on

BATCH = 32

Load = Callable[[Sequence[int], int], torch.Tensor]  # a batch of indices at a resolution


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--resolutions", type=lambda text: [int(part) for part in text.split(",")])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        root, pack = Path(place) / "images", Path(place) / "pack"
        make_images(root, arguments.images)
        build_pack(plan_pack(root, LEVELS, 90, True), pack)
        show_sizes(root, pack)
        measure(root, pack, arguments.resolutions or RESOLUTIONS, arguments.rounds)
        show_fidelity(root, pack)


def make_images(root: Path, count: int) -> None:
    """JPEGs that are as large, and take as many bytes, as ImageNet's."""
    for number in range(count):
        rng = np.random.default_rng(number)
        width, height = ((500, 375), (375, 500), (500, 333), (500, 500))[number % 4]
        place = root / "ab"[number % 2] / f"{number:05}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(_scene(rng, width, height)).save(place, quality=93)


def _scene(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Noise with a spectrum of 1/f, as photographs have it, and a few edges."""
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    frequency = np.hypot(y, x)
    frequency[0, 0] = 1 / max(width, height)
    channels = []
    shared = rng.normal(size=(height, width))
    for _ in range(3):
        noise = np.fft.rfft2(0.8 * shared + 0.2 * rng.normal(size=(height, width))) / frequency**1.2
        smooth = np.fft.irfft2(noise, s=(height, width))
        channels.append(smooth / smooth.std())
    pixels = 120 + 55 * np.stack(channels, 2)
    for _ in range(6):
        left, top = rng.integers(width), rng.integers(height)
        pixels[top : top + rng.integers(20, 150), left : left + rng.integers(20, 150)] += rng.normal(0, 40, 3)
    return pixels.clip(0, 255).astype(np.uint8)


def variants(root: Path, pack: Path, randaugment: float) -> dict[str, Load]:
    """What makes a training batch, by name."""
    files = folder(str(root), test_fraction=0.5).training
    strict, faster = (
        packed(str(pack), tolerance=tolerance, test_fraction=0.5).training for tolerance in (1.0, 0.75)
    )
    paths = [Path(files.name(index)) for index in range(len(files.labels))]
    transform = Transform(3, augmentation=Augmentation(flip=True, crop_area=AREA), seed=0)
    epochs = itertools.count()

    def reference(indices: Sequence[int], resolution: int) -> torch.Tensor:
        steps = [
            v2.RandomResizedCrop(resolution, AREA, antialias=True),
            v2.RandomHorizontalFlip(),
            *([v2.RandAugment(2, int(randaugment))] if randaugment else []),
            v2.PILToTensor(),
        ]
        return torch.stack([v2.Compose(steps)(datasets.folder.pil_loader(paths[index])) for index in indices])

    def ours(images: Images, simplejpeg: bool) -> Load:
        def load(indices: Sequence[int], resolution: int) -> torch.Tensor:
            jpeg.HAS_SIMPLEJPEG = simplejpeg
            return images.batch(Draws(np.array(indices), next(epochs), resolution, randaugment), transform)

        return load

    return {
        "reference": reference,
        "files, Pillow": ours(files, False),
        "files": ours(files, True),
        "packed, Pillow": ours(strict, False),
        "packed": ours(strict, True),
        "packed, 0.75": ours(faster, True),
    }


def measure(root: Path, pack: Path, resolutions: Sequence[int], rounds: int) -> None:
    for randaugment in (0.0, MAGNITUDE):
        loads = variants(root, pack, randaugment)
        count = len(folder(str(root), test_fraction=0.5).training.labels) // BATCH * BATCH
        batches = [range(start, start + BATCH) for start in range(0, count, BATCH)]
        print(f"RandAugment {randaugment:g}: ms an image (times as fast as the reference)")
        print("| px |", " | ".join(loads), "|")
        for resolution in resolutions if not randaugment else (128, 224):
            milliseconds: dict[str, list[float]] = {name: [] for name in loads}
            for _ in range(rounds):
                for name, load in loads.items():
                    start = time.process_time()
                    for batch in batches:
                        load(batch, resolution)
                    milliseconds[name].append(1000 * (time.process_time() - start) / count)
            cells = []
            for values in milliseconds.values():
                ratios = [of / own for of, own in zip(milliseconds["reference"], values, strict=True)]
                cells.append(f"{statistics.median(values):.2f} ({statistics.median(ratios):.2f})")
            print(f"| {resolution} |", " | ".join(cells), "|", flush=True)


def show_sizes(root: Path, pack: Path) -> None:
    images = sorted(root.rglob("*.jpg"))
    total = sum(path.stat().st_size for path in images) / len(images) / 1000
    levels = [
        f"{level.name} {sum(shard.stat().st_size for shard in level.iterdir()) / len(images) / 1000:.0f}"
        for level in sorted(pack.iterdir())
        if level.is_dir()
    ]
    print(f"{len(images)} images of {total:.0f} KB; KB an image: {', '.join(levels)}")


def show_fidelity(root: Path, pack: Path) -> None:
    """PSNR against the reference at equal boxes: the whole decoded, cut, and resized with antialiasing."""
    for tolerance in (1.0, 0.75):
        images = packed(str(pack), tolerance=tolerance, test_fraction=0.5).training
        for resolution in (64, 128, 224):
            decibels = []
            for index in range(len(images.labels)):
                width, height = images.size(index)
                row = np.random.default_rng(index).random(40)
                box = random_crop(width, height, row, AREA)
                with Image.open(images.pack.index.path(int(images.places[index]))) as image:
                    left, top, wide, tall = box
                    expected = vision.resized_crop(
                        image.convert("RGB"), top, left, tall, wide, [resolution, resolution], antialias=True
                    )
                found = images.region(index, box, (resolution, resolution), fast=True)
                error = np.mean((np.asarray(found, float) - np.asarray(expected, float)) ** 2)
                decibels.append(10 * np.log10(255**2 / max(error, 1e-9)))
            print(
                f"tolerance {tolerance:g}, {resolution} px: PSNR {statistics.median(decibels):.1f} dB, "
                f"worst of {len(decibels)} {min(decibels):.1f}"
            )


if __name__ == "__main__":
    main()
