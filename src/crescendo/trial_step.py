"""A training step of a size, to see whether the memory holds it."""

import gc
from typing import cast

import lightning as L
import torch

from crescendo.classifier import ImageClassifier
from crescendo.curriculum.schedule import Stage
from crescendo.data.datamodule import Batch


def step_passes(
    trainer: L.Trainer, classifier: ImageClassifier, stage: Stage, images: int, in_channels: int, held: int
) -> bool:
    """Whether two real steps of so many images at a stage end, while `held` bytes are taken beside them.

    On the trainer's device and in its precision. The classifier is trained, and back on the CPU afterwards;
    nothing else is left, neither of the steps nor of an error's traceback.
    """
    device = trainer.strategy.root_device
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng([device] if on_gpu else []):
        passed = _two_steps(trainer, classifier, stage, (images, in_channels), held)
    classifier.zero_grad()
    classifier.to("cpu")
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return passed


def _two_steps(
    trainer: L.Trainer, classifier: ImageClassifier, stage: Stage, shape: tuple[int, int], held: int
) -> bool:
    """The second has the first one's gradients, and the optimizer's state."""
    precision, device = trainer.strategy.precision_plugin, trainer.strategy.root_device
    pixels = (*shape, stage.resolution, stage.resolution)
    try:
        taken = torch.empty(held, dtype=torch.uint8, device=device)
        classifier = cast(ImageClassifier, precision.convert_module(classifier).to(device)).train()
        classifier.finetuning = classifier.finetuning.of_last_epochs
        classifier.enter(stage)
        optimizer = classifier.make_optimizer()
        labels = torch.zeros(shape[0], dtype=torch.long, device=device)
        batch = Batch(torch.zeros(pixels, dtype=torch.uint8, device=device), labels, labels)
        for _ in range(2):
            with precision.train_step_context():
                loss = classifier.training_step(batch, 0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        del taken
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
        return False
    return True


def _is_out_of_memory(error: RuntimeError) -> bool:
    """cuBLAS and cuDNN ask the driver for memory of their own, and have errors of their own; where no
    kernel's workspace fits, torch finds no engine.
    """
    signs = ("out of memory", "ALLOC_FAILED", "unable to find an engine")
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in signs)
