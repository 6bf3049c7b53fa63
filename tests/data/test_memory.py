"""What a loader's worker keeps of what it has read.

Its own memory is what it has written to: neither mapped files nor pages that it shares with its parent.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crescendo.curriculum import Curriculum
from crescendo.data import Augmentation, ImageData, Transform
from crescendo.data.folders import folder
from crescendo.data.images import ImageFiles, Sets
from crescendo.data.listing import FileIndex, Names
from crescendo.data.packing import build_pack, plan_pack
from crescendo.data.packs import packed

IMAGES, ABSENT = 1_200, 1_300_000


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    for number in range(IMAGES):
        pixels = np.random.default_rng(number).integers(0, 256, (80, 100, 3), np.uint8)
        place = root / "ab"[number % 2]
        place.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number}.jpg", quality=80)
    return root


def among_many(root):
    """Images of a directory, in an index that lists a million others, too."""
    real = folder(str(root), test_fraction=0.1).training
    index = real.index
    names = [f"{place}_of_many.JPEG" for place in range(ABSENT)]
    numbers = (index.widths, index.heights, index.sizes, index.times)
    many = FileIndex(
        index.root,
        index.directories,
        index.directory_times,
        np.append(index.directory_of, np.repeat(index.directory_of[-1:], ABSENT)),
        Names.of([*index.names.all(), *names]),
        *(np.append(values, np.repeat(values[-1:], ABSENT)) for values in numbers),
        {},
    )
    return Sets(ImageFiles(many, real.places, real.labels, 3), real.subset(np.arange(20)))


def in_a_pack(root):
    build_pack(plan_pack(root, (32, 48), 90, True), root.parent / "pack", workers=1)
    return packed(str(root.parent / "pack"), test_fraction=0.1)


def own_bytes(process: int) -> int:
    rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
    return next(
        int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Private_Dirty")
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", [among_many, in_a_pack])
def test_a_workers_memory_stays_flat(kind, photographs):
    transform = Transform(3, augmentation=Augmentation(flip=True, crop_area=(0.3, 1.0)))
    data = ImageData(
        kind(photographs),
        *(transform, Curriculum(10, 32), 0),
        batch_size=50,
        eval_batch_size=50,
        num_workers=1,
        val_fraction=0.1,
    )
    loader = data.train_dataloader()
    kept = []
    for epoch in range(10):
        loader.batch_sampler.set_epoch(epoch)
        assert sum(len(batch.labels) for batch in loader) >= 900
        (worker,) = loader._iterator._workers
        kept.append(own_bytes(worker.pid))
    assert kept[-1] < 100e6
    assert max(kept[5:]) - kept[4] < 1e6, kept  # the allocator has settled; a leak goes on
