"""Common corruptions of test images at five severities.

Benchmarking Neural Network Robustness to Common Corruptions and Perturbations.  Dan Hendrycks, Thomas
Dietterich, 2019.  arXiv:1903.12261, section 3. The kinds are theirs, without those that need textures (snow,
frost, fog), glass blur and elastic transform. The severities are our own, lengths as shares of the side so
that they mean the same at any resolution: results are not comparable with ImageNet-C's, bit by bit or mean
by mean.
"""

import io
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as vision

from crescendo.randomness import seed_of

SEVERITIES = (1, 2, 3, 4, 5)
ZOOM_STEPS = 8

Generators = list[np.random.Generator]
Corruption = Callable[[Tensor, float, Generators], Tensor]


def corrupt(
    images: Tensor, name: str, severity: int, indices: npt.NDArray[np.int64], seed: int = 0
) -> Tensor:
    """uint8 [n, C, R, R], corrupted: a function of (seed, name, severity, index) alone.

    Args:
        name: one of CORRUPTIONS.
        severity: 1 to 5.
        indices: of the images in their set.
    """
    corruption, strengths = CORRUPTIONS[name]
    kind = list(CORRUPTIONS).index(name)
    generators = [np.random.default_rng(seed_of(seed, kind, severity, int(index))) for index in indices]
    corrupted = corruption(images.float() / 255, strengths[severity - 1], generators)
    return (corrupted * 255).round_().clamp_(0, 255).to(torch.uint8)


def _gaussian_noise(images: Tensor, deviation: float, generators: Generators) -> Tensor:
    noise = np.stack([rng.standard_normal(images.shape[1:], np.float32) for rng in generators])
    return images + deviation * torch.from_numpy(noise)


def _shot_noise(images: Tensor, photons: float, generators: Generators) -> Tensor:
    """Poisson noise of so many photons for a white pixel."""
    pixels = images.numpy() * photons
    drawn = np.stack([rng.poisson(image) for rng, image in zip(generators, pixels, strict=True)])
    return torch.from_numpy((drawn / photons).astype(np.float32))


def _impulse_noise(images: Tensor, share: float, generators: Generators) -> Tensor:
    """A share of the values turns black or white."""
    drawn = torch.from_numpy(np.stack([rng.random(images.shape[1:], np.float32) for rng in generators]))
    return images.masked_fill(drawn < share / 2, 0.0).masked_fill(drawn > 1 - share / 2, 1.0)


def _gaussian_blur(images: Tensor, share: float, generators: Generators) -> Tensor:
    sigma = share * images.shape[-1]
    return vision.gaussian_blur(images, _odd(6 * sigma, images), [sigma, sigma])


def _defocus_blur(images: Tensor, share: float, generators: Generators) -> Tensor:
    """A disk of so large a radius, its edge softened over a pixel."""
    radius = share * images.shape[-1]
    kernel = (radius + 0.5 - _distances(_odd(2 * radius + 1, images))).clamp(0, 1)
    return _filter(images, kernel.expand(len(images), -1, -1))


def _motion_blur(images: Tensor, share: float, generators: Generators) -> Tensor:
    """A line of so large a length, in a direction of each image's own."""
    length = share * images.shape[-1]
    size = _odd(length + 1, images)
    offsets = torch.arange(size) - size // 2
    angles = torch.tensor([math.pi * rng.random() for rng in generators])[:, None, None]
    along = angles.cos() * offsets[None, None, :] + angles.sin() * offsets[None, :, None]
    across = angles.cos() * offsets[None, :, None] - angles.sin() * offsets[None, None, :]
    line = (length / 2 + 0.5 - along.abs()).clamp(0, 1) * (1 - across.abs()).clamp(0, 1)
    return _filter(images, line)


def _zoom_blur(images: Tensor, reach: float, generators: Generators) -> Tensor:
    """The mean of zooms from 1 to 1 + reach."""
    side = images.shape[-1]
    zoomed = []
    for step in range(ZOOM_STEPS + 1):
        larger = round(side * (1 + reach * step / ZOOM_STEPS))
        resized = vision.resize(images, [larger, larger], antialias=True)
        zoomed.append(vision.center_crop(resized, [side, side]))
    return torch.stack(zoomed).mean(0)


def _brightness(images: Tensor, shift: float, generators: Generators) -> Tensor:
    return images + shift


def _contrast(images: Tensor, share: float, generators: Generators) -> Tensor:
    """So large a share of each pixel's distance from its channel's mean is left."""
    means = images.mean((2, 3), keepdim=True)
    return means + share * (images - means)


def _jpeg(images: Tensor, quality: float, generators: Generators) -> Tensor:
    compressed = []
    for image in vision.to_dtype(images, torch.uint8, scale=True):
        pixels, buffer = image.permute(1, 2, 0).numpy(), io.BytesIO()
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(
            buffer, "jpeg", quality=int(quality)
        )
        with Image.open(buffer) as read:
            compressed.append(vision.pil_to_tensor(read))
    return torch.stack(compressed).float() / 255


def _pixelate(images: Tensor, share: float, generators: Generators) -> Tensor:
    """Averaged over blocks, so that such a share of the side's pixels is left."""
    side = images.shape[-1]
    smaller = F.adaptive_avg_pool2d(images, max(1, round(share * side)))
    return F.interpolate(smaller, size=(side, side), mode="nearest")


# By name: what is done, and how strongly at severities 1 to 5.
CORRUPTIONS: dict[str, tuple[Corruption, tuple[float, float, float, float, float]]] = {
    "gaussian_noise": (_gaussian_noise, (0.04, 0.08, 0.12, 0.18, 0.26)),  # deviation, of 0..1
    "shot_noise": (_shot_noise, (80, 40, 20, 10, 5)),  # photons
    "impulse_noise": (_impulse_noise, (0.01, 0.03, 0.06, 0.12, 0.2)),  # share of the values
    "gaussian_blur": (_gaussian_blur, (0.01, 0.018, 0.026, 0.036, 0.05)),  # deviation, of the side
    "defocus_blur": (_defocus_blur, (0.022, 0.03, 0.042, 0.056, 0.075)),  # radius, of the side
    "motion_blur": (_motion_blur, (0.03, 0.06, 0.1, 0.15, 0.2)),  # length, of the side
    "zoom_blur": (_zoom_blur, (0.06, 0.11, 0.16, 0.22, 0.3)),  # reach
    "brightness": (_brightness, (0.08, 0.16, 0.24, 0.32, 0.4)),  # added to 0..1
    "contrast": (_contrast, (0.7, 0.5, 0.35, 0.22, 0.12)),  # share that is left
    "jpeg": (_jpeg, (60, 35, 20, 12, 7)),  # quality
    "pixelate": (_pixelate, (0.75, 0.55, 0.42, 0.32, 0.25)),  # share of the side that is left
}


def _odd(length: float, images: Tensor) -> int:
    """The odd number of pixels that covers a length, within the image."""
    side = images.shape[-1]
    return min(max(3, 2 * math.ceil((length - 1) / 2) + 1), side - 1 + side % 2)


def _distances(size: int) -> Tensor:
    """Of each pixel of a square from its middle, [size, size]."""
    offsets = torch.arange(size, dtype=torch.float32) - size // 2
    return torch.hypot(offsets[:, None], offsets[None, :])


def _filter(images: Tensor, kernels: Tensor) -> Tensor:
    """Each image [C, R, R] with its kernel [k, k], which is normalised; edges are mirrored."""
    count, channels, *_ = images.shape
    kernels = kernels / kernels.sum((1, 2), keepdim=True)
    reach = kernels.shape[-1] // 2
    padded = F.pad(images, (reach, reach, reach, reach), mode="reflect")
    flat = padded.reshape(1, count * channels, *padded.shape[-2:])
    weights = kernels.repeat_interleave(channels, 0)[:, None]
    return F.conv2d(flat, weights, groups=count * channels).reshape(images.shape)
