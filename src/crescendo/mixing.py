"""What happens to a whole batch on the device: mixup, cutmix, erasing, the targets they make, the loss.

Random numbers come from the device's default generator, which the classifier seeds for each step.
"""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

ERASED_AREA = (0.02, 0.33)  # shares of the image, and
ERASED_RATIO = (0.3, 3.3)  # height over width: Zhong et al. 2017, section 4.1

Loss = Literal["cross_entropy", "binary_cross_entropy"]


class Targets(NamedTuple):
    """Each sample's classes: `share` of `labels`, the rest of `partners`, all of shape [N].

    A batch that was not mixed has neither partners nor shares.
    """

    labels: Tensor
    partners: Tensor | None = None
    share: Tensor | None = None


def mix(images: Tensor, labels: Tensor, mixup: float, cutmix: float) -> tuple[Tensor, Targets]:
    """Mix each image of a batch [N, C, H, W] with its partner, the same place of the reversed batch.

    `mixup` and `cutmix` are alphas of Beta(alpha, alpha). With both on, each takes half of the batch,
    as in EfficientNetV2's released training. 0 is off; with both off nothing is drawn or copied.
    """
    if mixup <= 0 and cutmix <= 0:
        return images, Targets(labels)
    count, _, height, width = images.shape
    blended = 0 if mixup <= 0 else count if cutmix <= 0 else count // 2
    partners = images.flip(0)
    share = torch.empty(count, dtype=torch.float32, device=images.device)
    mixed = torch.empty_like(images)
    if blended > 0:
        weight = _beta(mixup, blended, images.device)
        share[:blended] = torch.maximum(weight, 1 - weight)
        per_image = share[:blended, None, None, None].to(images.dtype)
        mixed[:blended] = torch.lerp(partners[:blended], images[:blended], per_image)
    if blended < count:
        side = (1 - _beta(cutmix, count - blended, images.device)).sqrt()
        centre = torch.rand(2, count - blended, device=images.device)
        pasted = _rectangles(
            centre[0] * height - side * height / 2,
            centre[1] * width - side * width / 2,
            side * height,
            side * width,
            (height, width),
        )
        share[blended:] = 1 - pasted.float().mean((1, 2, 3))  # of the rectangle as clipped
        mixed[blended:] = torch.where(pasted, partners[blended:], images[blended:])
    return mixed, Targets(labels, labels.flip(0), share)


def erase(images: Tensor, probability: float) -> Tensor:
    """Set a random rectangle of some images [N, C, H, W] to 0, which is the mean after normalisation.

    Zhong et al. 2017, arXiv:1708.04896, Algorithm 1; a rectangle that would not fit is cut to the image.
    """
    if probability <= 0:
        return images
    count, _, height, width = images.shape
    numbers = torch.rand(5, count, device=images.device)
    area = ERASED_AREA[0] + numbers[0] * (ERASED_AREA[1] - ERASED_AREA[0])
    ratio = ERASED_RATIO[0] * (ERASED_RATIO[1] / ERASED_RATIO[0]) ** numbers[1]
    tall = (height * (area * ratio).sqrt()).clamp_max(height)
    wide = (width * (area / ratio).sqrt()).clamp_max(width)
    chosen = numbers[4] < probability
    erased = _rectangles(
        numbers[2] * (height - tall), numbers[3] * (width - wide), tall, wide, (height, width)
    )
    return images.masked_fill(erased & chosen[:, None, None, None], 0)


def cross_entropy(logits: Tensor, targets: Targets, label_smoothing: float) -> Tensor:
    """The mean cross-entropy of logits [N, classes] against the mixed and smoothed targets."""
    if targets.partners is None or targets.share is None:
        return F.cross_entropy(logits, targets.labels, label_smoothing=label_smoothing)
    own, other = (
        F.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none")
        for labels in (targets.labels, targets.partners)
    )
    return torch.lerp(other, own, targets.share.to(own.dtype)).mean()


def binary_cross_entropy(logits: Tensor, targets: Targets, label_smoothing: float) -> Tensor:
    """The mean over images and classes of logits [N, classes], each class a yes or no of its own.

    All classes of a mixed image are a yes, whatever their shares, unless nothing of one is left (Wightman et
    al. 2021, arXiv:2110.00476, section 2.2). Smoothing by s makes of 1 and 0, at K classes, 1 - s + s / K and
    s / K.
    """
    return _binary_cross_entropies(logits, targets, label_smoothing).mean()


def _binary_cross_entropies(logits: Tensor, targets: Targets, label_smoothing: float) -> Tensor:
    """Of each image and class [N, classes]."""
    classes = torch.arange(logits.shape[1], device=logits.device)
    present = targets.labels[:, None] == classes
    if targets.partners is not None and targets.share is not None:
        share = targets.share[:, None]
        present = present & (share > 0) | (targets.partners[:, None] == classes) & (share < 1)
    wanted = present.float() * (1 - label_smoothing) + label_smoothing / logits.shape[1]
    return F.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="none")


LOSSES: Mapping[Loss, Callable[[Tensor, Targets, float], Tensor]] = {
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
}


def losses_of_each(loss: Loss, logits: Tensor, labels: Tensor) -> Tensor:
    """Of images as they are, [N]: what evaluation adds up."""
    if loss == "binary_cross_entropy":
        return _binary_cross_entropies(logits, Targets(labels), 0.0).mean(1)
    return F.cross_entropy(logits, labels, reduction="none")


def count_correct(logits: Tensor, targets: Targets) -> Tensor:
    """The number of right answers, where a mixed image counts in its shares."""
    answers = logits.argmax(1)
    own = (answers == targets.labels).float()
    if targets.partners is None or targets.share is None:
        return own.sum()
    return torch.lerp((answers == targets.partners).float(), own, targets.share).sum()


def _beta(alpha: float, count: int, device: torch.device) -> Tensor:
    concentration = torch.full((count,), float(alpha), device=device)
    return torch.distributions.Beta(concentration, concentration, validate_args=False).sample()


def _rectangles(top: Tensor, left: Tensor, tall: Tensor, wide: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask [N, 1, H, W], true inside each image's rectangle; edges are rounded to pixels."""
    rows = torch.arange(size[0], device=top.device)
    columns = torch.arange(size[1], device=top.device)
    in_rows = (rows >= top.round()[:, None]) & (rows < (top + tall).round()[:, None])
    in_columns = (columns >= left.round()[:, None]) & (columns < (left + wide).round()[:, None])
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]
