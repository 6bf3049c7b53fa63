"""What a net answered for each test image: gathered over the devices, and kept as predictions.csv."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric

from crescendo.errors import UserError

FILE = "predictions.csv"
COLUMNS = ("index", "label", "answer", "probability", "label_probability")


class Answers(NamedTuple):
    """One value for each test image, in the order of the data set.

    Attributes:
        indices: of the images in the test set.
        labels, answers: class numbers.
        probabilities: of the answer, and of the label; both float in 0..1.
    """

    indices: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    answers: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]
    label_probabilities: npt.NDArray[np.float64]

    @property
    def wrong(self) -> npt.NDArray[np.bool_]:
        return self.answers != self.labels


class GatheredAnswers(Metric):
    """Collects the answers of a test; `compute` has those of all devices, sorted by image."""

    full_state_update = False
    numbers: list[Tensor]
    shares: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("numbers", default=[], dist_reduce_fx="cat")  # [n, 3]: index, label, answer
        self.add_state("shares", default=[], dist_reduce_fx="cat")  # [n, 2]: of the answer, of the label

    def update(self, logits: Tensor, labels: Tensor, indices: Tensor) -> None:
        probabilities = logits.float().softmax(1)
        best, answers = probabilities.max(1)
        of_labels = probabilities.gather(1, labels[:, None])[:, 0]
        self.numbers.append(torch.stack((indices, labels, answers), 1))
        self.shares.append(torch.stack((best, of_labels), 1))

    def compute(self) -> Answers:
        numbers, shares = (
            torch.cat(state).cpu().numpy() if isinstance(state, list) else state.cpu().numpy()
            for state in (self.numbers, self.shares)
        )
        order = np.argsort(numbers[:, 0], kind="stable")
        shares = shares[order].astype(np.float64)
        indices, labels, answers = numbers[order].T
        return Answers(indices, labels, answers, shares[:, 0], shares[:, 1])


def write_answers(directory: Path, answers: Answers) -> None:
    """predictions.csv of a run directory: a row for each test image."""
    with (directory / FILE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for index, label, answer, probability, of_label in zip(*answers, strict=True):
            writer.writerow([index, label, answer, f"{probability:.6g}", f"{of_label:.6g}"])


def read_answers(directory: Path) -> Answers | None:
    """The answers of a run; None where it recorded none.

    Raises:
        UserError: the file is something else.
    """
    path = directory / FILE
    if not path.is_file():
        return None
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        if not rows or tuple(rows[0]) != COLUMNS:
            raise ValueError(f"its columns are not {', '.join(COLUMNS)}")
        table = np.array(rows[1:], dtype=np.float64).reshape(-1, len(COLUMNS))
        table = table[np.argsort(table[:, 0], kind="stable")]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    indices, labels, answers = table[:, :3].astype(np.int64).T
    return Answers(indices, labels, answers, table[:, 3], table[:, 4])
