"""One evaluation of a run: its test, and what else of its answers is asked for."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crescendo.analysis.score_tables import Against, Evaluation
from crescendo.analysis.scores import Outcome, score, shares_right
from crescendo.analysis.uncertainty import McNemar
from crescendo.evaluation import TrainedRun, same_images
from crescendo.tracking import show_messages


def evaluate_run(
    run: Path,
    accelerator: str = "auto",
    *,
    trust: bool = False,
    data: Sequence[str] = (),
    resolutions: Sequence[int] = (),
    averaged: bool = False,
    corrupted: bool = False,
    other: Path | None = None,
) -> Evaluation:
    """Test a run's best checkpoint.

    Args:
        data: overrides of the data, of `other` as well.
        resolutions: px to test at, beside that of the run's evaluation.
        averaged: with test-time augmentation, too.
        corrupted: under common corruptions, too.
        other: a run to hold against this one, on the same images.
    """
    show_messages()
    trained = TrainedRun.load(run, accelerator, trust=trust, data=data)
    tested = trained.test()
    by_resolution, by_corruption = {}, {}
    if resolutions:
        right = trained.right_at(resolutions)
        by_resolution = dict(zip(resolutions, shares_right(right), strict=True))
    if corrupted:
        found = trained.right_corrupted()
        means = shares_right(np.stack([right.mean(1) for right in found.values()], 1))
        by_corruption = {
            name: (right.mean(0).tolist(), estimate)
            for (name, right), estimate in zip(found.items(), means, strict=True)
        }
    with_views = None
    if averaged:
        views = trained.test_averaged()
        with_views = (score(views, trained.class_names), hold_against(views, tested, "the plain test"))
    against = None
    if other is not None:
        theirs = TrainedRun.load(other, accelerator, trust=trust, data=data).test()
        same_images(tested, theirs, (run, other))
        against = hold_against(tested, theirs, str(other))
    return Evaluation(
        score(tested, trained.class_names),
        len(tested.labels),
        trained.resolution,
        with_views,
        by_resolution,
        by_corruption,
        against,
    )


def hold_against(ours: Outcome, theirs: Outcome, name: str) -> Against:
    """Two nets on the same images: the images are resampled for both at once."""
    columns = np.stack([theirs.right, ours.right.astype(np.float64) - theirs.right], 1)
    accuracy, difference = shares_right(columns)
    return Against(name, accuracy, difference, McNemar.of(ours.right, theirs.right))
