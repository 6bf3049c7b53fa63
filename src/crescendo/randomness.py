"""Addressed random numbers: pure functions of what they are for, with no generator to carry along.

What a sample gets is keyed on (seed, epoch, index), what a device draws on (seed, epoch, batch, rank).
So neither the number of workers or devices nor an interruption changes a number.
"""

from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import torch

_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, the increment of SplitMix64
_MASK = 2**64 - 1

UInt64s = npt.NDArray[np.uint64]


def _scramble(x: UInt64s) -> UInt64s:
    """The finaliser of SplitMix64 (Steele, Lea & Flood 2014): each input bit moves every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _fold(key: UInt64s, value: int | UInt64s) -> UInt64s:
    """A new key from `key` and one more coordinate of the address."""
    if isinstance(value, int):
        value = np.asarray([value & _MASK], dtype=np.uint64)
    return _scramble(key * np.uint64(_GOLDEN) + _scramble(value + np.uint64(_GOLDEN)))


def uniform(
    seed: int, epoch: int | npt.NDArray[np.int64], indices: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1) of shape [len(indices), count], a row for each sample of the epoch.

    `epoch` is one for all samples, or one for each.
    """
    start = np.zeros(1, dtype=np.uint64)
    epochs = epoch if isinstance(epoch, int) else epoch.astype(np.uint64)
    key = _fold(_fold(_fold(start, seed), epochs), indices.astype(np.uint64))
    columns = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    bits = _scramble(key[:, None] + columns) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


def permutation(seed: int, epoch: int, size: int) -> npt.NDArray[np.int64]:
    """The order of `size` samples in an epoch."""
    return np.random.Generator(np.random.Philox(seed_of(seed, epoch))).permutation(size)


def seed_of(*address: int) -> int:
    """A seed for a generator, in 0 .. 2^63 - 1, from an address such as (seed, epoch, batch, rank)."""
    digest = blake2b(repr(address).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def seed_device(seed: int, device: torch.device) -> None:
    """Seed what torch draws from on the host and on `device`, the current one of its kind.

    torch.manual_seed would seed devices of every kind: each kind that is not in use keeps the seed for later,
    with the stack of the call as text, which in every step costs more than a small net's forward pass.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)
