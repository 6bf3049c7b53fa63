"""Images as addressed draws: a sample is a function of (seed, epoch, index) and its curriculum stage."""

from crescendo.data.datamodule import Batch, ImageData
from crescendo.data.transforms import Augmentation, Transform

__all__ = ["Augmentation", "Batch", "ImageData", "Transform"]
