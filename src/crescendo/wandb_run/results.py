"""What W&B shows of a test: confusions, classes, and the worst mistakes with what the net looked at.

The facts are those of confusion_matrix.csv, predictions.csv and the page of `crescendo compare --html`.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from crescendo.analysis.cam import class_maps, enlarged
from crescendo.analysis.mistakes import MOST_CLASSES, Matrix, surest_mistakes
from crescendo.analysis.overlay import blended
from crescendo.answers import Answers
from crescendo.classifier import ImageClassifier
from crescendo.data.datamodule import AddressedDataset
from crescendo.data.decoding import ImageError
from crescendo.data.sampler import Draws
from crescendo.errors import UserError

LARGEST = 256  # px of a picture's side
CONFUSION_MATRIX = "wandb/confusion_matrix/v1"  # W&B's own chart

log = logging.getLogger(__name__)


def show(
    classifier: ImageClassifier, test: AddressedDataset, names: Sequence[str], resolution: int
) -> dict[str, Any]:
    """What is logged of the classifier's last test; W&B's own objects by name.

    Args:
        resolution: of the test.
    """
    assert classifier.confusion_matrix is not None
    assert classifier.answers is not None
    matrix = Matrix(names, classifier.confusion_matrix.cpu().numpy())
    return {
        **_confusions(matrix),
        "test/classes": _classes(matrix),
        "test/mistakes": _mistakes(classifier, test, names, resolution, classifier.answers),
    }


def _confusions(matrix: Matrix) -> dict[str, Any]:
    """The matrix as a chart, where it is not too large for one, and its most frequent mistakes."""
    import wandb

    pairs = wandb.Table(columns=["class", "taken for", "share"], data=[list(pair) for pair in matrix.pairs()])
    if len(matrix.names) > MOST_CLASSES:
        return {"test/confusions": pairs}
    cells = [
        [true, answer, int(count)]
        for true, row in zip(matrix.names, matrix.counts, strict=True)
        for answer, count in zip(matrix.names, row, strict=True)
    ]
    columns = ["Actual", "Predicted", "nPredictions"]  # as the chart calls them
    chart = wandb.plot_table(
        CONFUSION_MATRIX,
        wandb.Table(columns=list(columns), data=cells),
        {column: column for column in columns},
        {"title": "confusion matrix of the test"},
    )
    return {"test/confusion_matrix": chart, "test/confusions": pairs}


def _classes(matrix: Matrix) -> Any:
    import wandb

    columns = ["class", "images", "accuracy", "precision", "most often taken for", "share"]
    return wandb.Table(
        columns=list(columns),
        data=[
            [
                result.name,
                result.images,
                result.accuracy,
                result.precision,
                *(result.taken_for or (None, None)),
            ]
            for result in matrix.classes()
        ],
    )


def _mistakes(
    classifier: ImageClassifier,
    test: AddressedDataset,
    names: Sequence[str],
    resolution: int,
    answers: Answers,
) -> Any:
    """A row for each of the images that were most surely taken for something else."""
    import wandb

    places = np.array([place for place, _ in surest_mistakes([answers])], dtype=np.int64)
    indices, given = answers.indices[places], answers.answers[places]
    facts = [
        [
            test.images.name(int(index)),
            names[answers.labels[place]],
            names[answers.answers[place]],
            float(answers.probabilities[place]),
            float(answers.label_probabilities[place]),
        ]
        for index, place in zip(indices, places, strict=True)
    ]
    columns = ["name", "class", "answer", "probability", "probability of the class"]
    pictures = _pictures(classifier, test, indices, given, resolution) if len(places) else []
    for title, images in pictures:
        columns.append(title)
        for row, image in zip(facts, images, strict=True):
            row.append(image)
    return wandb.Table(columns=list(columns), data=facts)


def _pictures(
    classifier: ImageClassifier,
    test: AddressedDataset,
    indices: npt.NDArray[np.int64],
    answers: npt.NDArray[np.int64],
    resolution: int,
) -> list[tuple[str, list[Any]]]:
    """The images as the net saw them, and under the class activation maps of its answers; what there is.

    A picture that cannot be made is one warning: the training is done, and is not to fail for it.
    """
    import wandb

    found: list[tuple[str, list[Any]]] = []
    try:
        pixels = test.images.batch(Draws(indices, None, resolution), test.transform)
        found.append(("image", [wandb.Image(_as_image(image)) for image in pixels]))
        maps = _maps(classifier, pixels, answers.tolist())
        heated = [blended(*pair) for pair in zip(pixels.float() / 255, maps, strict=True)]
        found.append(
            ("what speaks for the answer", [wandb.Image(_as_image(image * 255)) for image in heated])
        )
    except (UserError, ImageError, ImportError, OSError, RuntimeError, ValueError) as error:
        log.warning(
            "W&B shows the worst mistakes without %s: %s",
            "class activation maps" if found else "images",
            error,
        )
    return found


def _maps(classifier: ImageClassifier, pixels: Tensor, answers: Sequence[int]) -> Tensor:
    """Class activation maps [N, R, R] of uint8 images [N, C, R, R], where the classifier is; one at a time,
    since Grad-CAM keeps what a training step keeps.
    """
    classifier.eval()
    parts = []
    with torch.compiler.set_stance("force_eager"):
        for image, answer in zip(pixels.split(1), answers, strict=True):
            normalised = classifier.normalise(image.to(classifier.device))
            parts.append(class_maps(classifier.net, normalised, [answer]).float().cpu())
    return enlarged(torch.cat(parts), pixels.shape[-1])


def _as_image(image: Tensor) -> Image.Image:
    """Of [C, R, R] in 0..255."""
    pixels = image.round().to(torch.uint8).permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    picture.thumbnail((LARGEST, LARGEST))
    return picture
