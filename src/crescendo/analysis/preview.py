"""One picture of a training before it starts: its schedule, and a batch as the net sees it at each stage."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from torch import Tensor

from crescendo.classifier import ImageClassifier
from crescendo.curriculum.schedule import Curriculum, Stage
from crescendo.data import ImageData
from crescendo.errors import UserError
from crescendo.randomness import seed_device, seed_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BANDS = ("#f2f2f2", "#e4e4e4")  # of the stages, in turns
LINE = "#0072b2"  # Okabe & Ito's blue
COLUMNS = 3  # of curves beside each other
MOST_ROWS = 6  # of images: of more stages, as many at equal distances


def batches_as_seen(classifier: ImageClassifier, data: ImageData, count: int) -> list[tuple[Stage, Tensor]]:
    """The first images of the training's first batch as the net gets them at each stage.

    Each is [n, C, R, R] in 0..1: loaded as in the stage's first epoch, then normalised, mixed and erased by
    the classifier, and brought back from its mean and deviation.
    """
    sampler, seen = data.training_sampler(), []
    first = next(iter(sampler))
    stages = data.curriculum.plan
    if len(stages) > MOST_ROWS:
        stages = tuple(stages[i * (len(stages) - 1) // (MOST_ROWS - 1)] for i in range(MOST_ROWS))
    for stage in stages:
        sampler.set_epoch(stage.first_epoch)
        draws = next(iter(sampler))._replace(indices=first.indices, repeats=first.repeats)
        classifier.enter(stage)
        seed_device(seed_of(classifier.seed, stage.first_epoch, 0, 0), classifier.device)
        batch, faults = data.training.__getitems__(draws)
        data.faults.meet(faults)
        assert batch is not None
        images, _ = classifier.augment(batch)
        pixels = images * classifier.std + classifier.mean
        seen.append((stage, (pixels[:count] / 255).clamp(0, 1).contiguous()))
    return seen


def draw_preview(
    title: str,
    curriculum: Curriculum,
    learning_rates: Sequence[float],
    batches: Sequence[tuple[Stage, Tensor]],
) -> "Figure":
    """The picture.

    Args:
        learning_rates: at the middle of equal parts of the training.
        batches: images [n, C, R, R] in 0..1, and the stage that they are of.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise UserError('crescendo preview needs pip install "crescendo[plot]".') from error
    stages = curriculum.plan
    knobs = [name for name in stages[0].knobs if any(stage.knobs[name] > 0 for stage in stages)]
    curves = ["resolution", "learning rate", *knobs]
    rows, columns = -(-len(curves) // COLUMNS), len(batches[0][1])
    heights = [1.7 * rows + 0.3, *(1.2 for _ in batches)]
    figure = Figure(figsize=(max(9.0, 1.15 * (columns + 1)), sum(heights) + 0.4), layout="constrained")
    figure.suptitle(title, fontsize=13, fontweight="bold")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    above, below = parts[0], parts[1:]
    axes = above.subplots(rows, COLUMNS, sharex=True, squeeze=False).flatten()
    edges = [stage.first_epoch for stage in stages] + [curriculum.epochs]
    for axis, name in zip(axes, curves, strict=False):
        _draw_bands(axis, edges)
        if name == "learning rate":
            middles = [
                (i + 0.5) * curriculum.epochs / len(learning_rates) for i in range(len(learning_rates))
            ]
            axis.plot(middles, learning_rates, color=LINE)
        else:
            values = [
                curriculum.at(epoch).resolution if name == "resolution" else curriculum.at(epoch).knobs[name]
                for epoch in range(curriculum.epochs)
            ]
            axis.stairs(values, range(curriculum.epochs + 1), baseline=None, color=LINE, linewidth=2)
        axis.set_title(f"{name} (px)" if name == "resolution" else name.replace("_", " "), fontsize=10)
        axis.set_xlim(0, curriculum.epochs)
        axis.set_ylim(bottom=0)
        axis.margins(y=0.15)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    for axis in axes[len(curves) :]:
        axis.set_visible(False)
    for axis in axes[max(0, len(curves) - COLUMNS) : len(curves)]:  # the lowest of each column
        axis.tick_params(labelbottom=True)
    above.supxlabel("epochs", fontsize=9)
    largest = max(stage.resolution for stage, _ in batches)
    for part, (stage, batch) in zip(below, batches, strict=True):
        label, *places = part.subplots(1, 1 + columns)
        label.axis("off")
        first, last = stage.first_epoch + 1, stage.first_epoch + stage.epochs
        epochs = f"epochs {first} to {last}" if first < last else f"epoch {first}"
        label.text(0, 0.5, f"stage {stage.index + 1}", fontsize=10, fontweight="bold", va="bottom")
        label.text(0, 0.45, f"{stage.resolution} px\n{epochs}", fontsize=9, va="top")
        for axis, image in zip(places, batch, strict=True):
            _draw_image(axis, image, largest)
    return figure


def _draw_bands(axis: "Axes", edges: Sequence[int]) -> None:
    for index, (begin, end) in enumerate(pairwise(edges)):
        axis.axvspan(begin, end, color=BANDS[index % 2], linewidth=0)


def _draw_image(axis: "Axes", image: Tensor, largest: int) -> None:
    """An image [C, R, R] in its size against the largest: every stage's pixels are equally large."""
    grey = len(image) == 1
    pixels = image[0] if grey else image.permute(1, 2, 0)
    axis.imshow(pixels.numpy(), cmap="gray" if grey else None, vmin=0, vmax=1, interpolation="nearest")
    reach = (largest - image.shape[-1]) / 2
    axis.set_xlim(-0.5 - reach, image.shape[-1] - 0.5 + reach)
    axis.set_ylim(image.shape[-1] - 0.5 + reach, -0.5 - reach)
    axis.axis("off")
