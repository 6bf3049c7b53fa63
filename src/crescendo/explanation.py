"""Runs asked what they look at: the class activation maps of image files, as one picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from crescendo.analysis.cam import class_maps, enlarged, method_for
from crescendo.analysis.choices import Method
from crescendo.analysis.overlay import Column, draw_columns
from crescendo.errors import UserError, did_you_mean
from crescendo.evaluation import TrainedRun, load_run
from crescendo.runs import find_runs, read_config

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH = 16  # images: Grad-CAM keeps what a training step keeps
TITLES = {Method.CAM: "CAM", Method.GRAD_CAM: "Grad-CAM"}


def explain_files(
    runs: Sequence[Path],
    files: Sequence[Path],
    *,
    class_name: str | None = None,
    stage: str | None = None,
    method: Method = Method.AUTO,
    trust: bool = False,
) -> "Figure":
    """A row for each file: the image, and the map of each run, or of each of its stages, over it.

    Runs of which each has an arm of its own are named by it, others by their directories.

    Args:
        runs: run directories, and sweeps or patterns, which stand for all of their runs.
        class_name: whose map is drawn; by default that of each run's own answer.
        stage: "all", or one counted from 1; the last by default.

    Raises:
        UserError: a run has no such class or stage, or the method does not fit its net.
    """
    directories = [run for place in runs for run in (find_runs([place]) if _holds_runs(place) else [place])]
    arms = [read_config(directory).get("arm") for directory in directories]
    named = len(arms) > 1 and None not in arms and len(set(arms)) == len(arms)
    columns: list[Column] = []
    for directory, arm in zip(directories, arms, strict=True):
        trained = load_run(directory, trust=trust)
        name = arm if named else None
        columns += explain_run(trained, files, name, class_name=class_name, stage=stage, method=method)
    return draw_columns([file.name for file in files], columns)


def explain_run(
    trained: TrainedRun,
    files: Sequence[Path],
    name: str | None = None,
    *,
    class_name: str | None = None,
    stage: str | None = None,
    method: Method = Method.AUTO,
) -> list[Column]:
    """A column for each stage that is asked for; the arguments are those of explain_files.

    Args:
        name: of the run in the titles; its directory's by default.
    """
    net, classifier = trained.classifier.net, trained.classifier
    indices = _stages(trained, stage)
    methods = [method_for(net, index, method) for index in indices]
    label = None if class_name is None else _label(trained, class_name)
    images: list[Tensor] = []
    captions: list[str] = []
    maps: list[list[Tensor]] = [[] for _ in indices]
    name = name or trained.directory.resolve().name
    for batch in trained.batches(files, BATCH):
        pixels = classifier.normalise(batch)
        with torch.no_grad():
            probabilities = classifier(batch).softmax(1)
        answers = probabilities.argmax(1).tolist()
        classes = answers if label is None else [label] * len(answers)
        images.append(batch.float() / 255)
        captions += [
            _caption(trained.class_names, row, answer, shown)
            for row, answer, shown in zip(probabilities.tolist(), answers, classes, strict=True)
        ]
        for parts, index, chosen in zip(maps, indices, methods, strict=True):
            parts.append(class_maps(net, pixels, classes, index, chosen))
    columns = []
    for parts, index, chosen in zip(maps, indices, methods, strict=True):
        whole = torch.cat(parts)
        size = "x".join(map(str, whole.shape[1:]))
        title = f"{net.name}, stage {index + 1}\n{TITLES[chosen]}, {size}\n{name}"
        columns.append(Column(title, torch.cat(images), enlarged(whole, trained.resolution), captions))
    return columns


def _holds_runs(place: Path) -> bool:
    """Whether it is a directory of runs, or a pattern, and no run itself."""
    return not (place / "config.yaml").is_file() and (not place.exists() or any(place.rglob("config.yaml")))


def _stages(trained: TrainedRun, stage: str | None) -> list[int]:
    name, count = trained.classifier.net.name, len(trained.classifier.net.readers())
    if stage is None:
        return [count - 1]
    if stage == "all":
        return list(range(count))
    if not stage.isdecimal() or not 1 <= int(stage) <= count:
        raise UserError(f"--stage {stage}: {name} has stages 1 to {count}, or give all.")
    return [int(stage) - 1]


def _label(trained: TrainedRun, class_name: str) -> int:
    names = trained.class_names
    if class_name not in names:
        raise UserError(
            f"--class {class_name}: {trained.directory} knows no such class."
            f"{did_you_mean(class_name, names)} It has {', '.join(names)}."
        )
    return names.index(class_name)


def _caption(names: Sequence[str], probabilities: Sequence[float], answer: int, shown: int) -> str:
    """The class whose map is shown and its probability, and the answer where it is another."""
    caption = f"{names[shown]} {probabilities[shown]:.3f}"
    if answer == shown:
        return caption
    return f"{caption}\nanswer: {names[answer]} {probabilities[answer]:.3f}"
