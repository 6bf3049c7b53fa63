"""A data set of classes from Debian's openclipart-png, for data=openclipart.

    python benchmarks/openclipart.py <directory> [--source /usr/share/openclipart/png]

The package's folders of 130 drawings or more are the classes, without `unsorted` and `special`. A drawing
is flattened on white, shrunk to a short side of 128 px and kept without compression, so that decoding it
costs little beside training at 96 px. What has the same pixels as an earlier one is left out, before
anything is split; so are files of more than 50 megapixels, and drawings with a side below 16 px or a shape
beyond 4 to 1.
"""

import argparse
import hashlib
import shutil
from collections import Counter
from pathlib import Path

from PIL import Image

SOURCE = Path("/usr/share/openclipart/png")
NO_CLASSES = ("unsorted", "special")
SMALLEST_CLASS = 130  # files
MOST_PIXELS = 50_000_000
SMALLEST_SIDE = 16  # px
LONGEST_SHAPE = 4  # long side over short side
SHORT_SIDE = 128  # px


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--source", type=Path, default=SOURCE)
    arguments = parser.parse_args()
    prepare(arguments.directory, arguments.source)


def prepare(directory: Path, source: Path = SOURCE) -> None:
    """Make `directory` with a directory of PNG files for each class; one that is there stays."""
    if directory.exists():
        return
    Image.MAX_IMAGE_PIXELS = None  # _copy looks at the size before it decodes
    folders = {folder: sorted(folder.rglob("*.png")) for folder in sorted(source.iterdir())}
    partial = directory.with_name(directory.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    left_out: Counter[str] = Counter()
    seen: set[bytes] = set()
    for folder, files in folders.items():
        if folder.name in NO_CLASSES or len(files) < SMALLEST_CLASS:
            continue
        place = partial / folder.name
        place.mkdir(parents=True)
        kept = 0
        for file in files:
            reason = _copy(file, place / f"{kept:05}.ppm", seen)
            left_out[reason] += 1
            kept += not reason
        print(f"{folder.name}: {kept} of {len(files)}")
    print("left out:", ", ".join(f"{count} {reason}" for reason, count in left_out.items() if reason))
    partial.rename(directory)


def _copy(file: Path, target: Path, seen: set[bytes]) -> str:
    """Shrink `file` to `target`, or tell why not. `seen` are hashes of the pixels so far."""
    with Image.open(file) as image:  # reads the header alone
        width, height = image.size
        if width * height > MOST_PIXELS:
            return "too large"
        if min(width, height) < SMALLEST_SIDE or max(width, height) > LONGEST_SHAPE * min(width, height):
            return "too small or too long"
        drawing = image.convert("RGBA")
    flat = Image.new("RGBA", drawing.size, "white")
    flat.alpha_composite(drawing)
    colours = flat.convert("RGB")
    digest = hashlib.sha256(repr(colours.size).encode() + colours.tobytes()).digest()
    if digest in seen:
        return "duplicate"
    seen.add(digest)
    scale = SHORT_SIDE / min(colours.size)
    if scale < 1:
        width, height = (max(SHORT_SIDE, round(side * scale)) for side in colours.size)
        colours = colours.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    colours.save(target)
    return ""


if __name__ == "__main__":
    main()
