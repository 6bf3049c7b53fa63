import logging
import time
from signal import SIGTERM

import pytest
import wandb

from crescendo.errors import Interrupted
from crescendo.metrics_file import MetricsFile
from crescendo.runs import Run
from crescendo.tracking import finish_loggers
from crescendo.wandb_run import WandbRun
from crescendo.wandb_run import logger as logging_to_wandb


class FakeExperiment:
    """What a logger asks of W&B's run."""

    offline = True

    def __init__(self) -> None:
        self.id, self.dir = "abc", "/a/run/files"
        self.rows: list[tuple[int, dict]] = []
        self.metrics: list[tuple[str, dict]] = []
        self.summary: dict = {}
        self.exit_code: int | None = None
        self.error: Exception | None = None
        self.seconds = 0.0  # that a row takes

    def define_metric(self, name, **settings) -> None:
        self.metrics.append((name, settings))

    def log(self, values, step, commit) -> None:
        assert commit
        time.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        self.rows.append((step, values))

    def finish(self, exit_code) -> None:
        self.exit_code = exit_code


def logged(place, experiment, kept, images, sent=0):
    """Rows of training and validation, as Lightning hands them to metrics.csv and then to W&B."""
    file, logger = MetricsFile(place, kept), WandbRun(experiment, Run(place), sent=sent)
    logger.go_on(file)
    for number in images:
        for row in ({"train/images": number}, {"val/accuracy": 0.5}):
            file.log_metrics(row, step=number // 10 - 1)
            logger.log_metrics(row, step=number // 10 - 1)


ROWS = [
    (0, {"train/images": 10, "trainer/global_step": 0}),
    (1, {"train/images": 10, "val/accuracy": 0.5, "trainer/global_step": 0}),
    (2, {"train/images": 20, "trainer/global_step": 1}),
    (3, {"train/images": 20, "val/accuracy": 0.5, "trainer/global_step": 1}),
    (4, {"train/images": 30, "trainer/global_step": 2}),
    (5, {"train/images": 30, "val/accuracy": 0.5, "trainer/global_step": 2}),
]


def test_every_row_knows_how_far_the_training_was(tmp_path):
    experiment = FakeExperiment()
    logged(tmp_path, experiment, 0, [10, 20, 30])
    assert experiment.rows == ROWS


@pytest.mark.parametrize("sent", [0, 1, 3, 4, 5])
def test_every_row_is_sent_once(tmp_path, sent):
    """The first process logs four rows, of which W&B keeps some, and dies; the second goes on after two."""
    logged(tmp_path, FakeExperiment(), 0, [10, 20])
    second = FakeExperiment()
    logged(tmp_path, second, 2, [20, 30], sent)
    assert second.rows == ROWS[sent:]


def test_a_training_that_goes_back_in_its_own_process_sends_nothing_twice(tmp_path):
    experiment = FakeExperiment()
    logger = WandbRun(experiment, Run(tmp_path))
    for kept, images in ((0, [10, 20]), (2, [20, 30])):
        file = MetricsFile(tmp_path, kept)
        logger.go_on(file)
        for number in images:
            for row in ({"train/images": number}, {"val/accuracy": 0.5}):
                file.log_metrics(row, step=number // 10 - 1)
                logger.log_metrics(row, step=number // 10 - 1)
    assert experiment.rows == ROWS


def test_the_axes_are_known(tmp_path):
    experiment = FakeExperiment()
    WandbRun(experiment, Run(tmp_path), x_axis="macs")
    defined = dict(experiment.metrics)
    for axis in ("epoch", "train/epochs", "train/images", "train/macs", "train/seconds"):
        assert defined[axis] == {"hidden": True}
    assert defined["*"] == {"step_metric": "train/macs"}


@pytest.mark.parametrize(
    ("error", "pruned", "code", "status"),
    [
        (None, False, 0, "finished"),
        (None, True, 0, "pruned"),
        (ValueError("no"), False, 1, "failed"),
        (Interrupted(SIGTERM), False, 255, "interrupted"),
        (KeyboardInterrupt(), False, 255, "interrupted"),
    ],
)
def test_the_end_is_the_run_s(tmp_path, error, pruned, code, status):
    experiment, run = FakeExperiment(), Run(tmp_path)
    run.summary |= {"parameters": 7, "metrics": {"test/accuracy": 0.5}}
    logger = WandbRun(experiment, run)
    logger.results = {"test/classes": "a table"}
    finish_loggers([logger], error, pruned=pruned)
    assert experiment.exit_code == code
    assert experiment.rows == [(0, {"test/classes": "a table"})]
    said = experiment.summary
    assert (said["status"], said["parameters"], said["test/accuracy"]) == (status, 7, 0.5)
    assert bool(said.get("error")) == (error is not None)


@pytest.fixture
def ended(monkeypatch):
    """How often W&B's service was ended."""
    times: list[bool] = []
    monkeypatch.setattr(logging_to_wandb, "_end_service", lambda: times.append(True))
    return times


@pytest.fixture
def warnings(caplog):
    logging.getLogger("crescendo").propagate = True
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("error", [wandb.errors.CommError("gone"), OSError("gone"), TypeError("gone")])
def test_an_error_is_one_warning(tmp_path, ended, warnings, capsys, error):
    experiment = FakeExperiment()
    logger = WandbRun(experiment, Run(tmp_path))
    experiment.error = error
    for step in range(3):
        logger.log_metrics({"loss": 1.0}, step=step)
    finish_loggers([logger], None)
    assert logger.lost
    assert experiment.exit_code is None
    (warning,) = warnings()
    assert warning.startswith("W&B is lost (gone)")
    assert (
        capsys.readouterr().out.splitlines()[-1] == "wandb sync /a/run"
    )  # behind the warning, if it is shown
    assert ended == [True]


def test_a_service_that_takes_no_row_is_waited_for_once(tmp_path, ended, warnings, monkeypatch):
    monkeypatch.setattr(logging_to_wandb, "ROW_SECONDS", 0.1)
    experiment = FakeExperiment()
    logger = WandbRun(experiment, Run(tmp_path))
    experiment.seconds = 2.0
    begin = time.perf_counter()
    for step in range(3):
        logger.log_metrics({"loss": 1.0}, step=step)
    finish_loggers([logger], None)
    assert time.perf_counter() - begin < 1.5
    (warning,) = warnings()
    assert "no answer in 0.1 s" in warning
    assert ended == [True]


def test_an_end_has_the_time_that_there_is(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(WandbRun, "_try", lambda self, action, seconds: given.append(seconds))
    (tmp_path / "checkpoints").mkdir()
    with (tmp_path / "checkpoints" / "best.ckpt").open("wb") as file:
        file.truncate(500_000_000)
    logger = WandbRun(FakeExperiment(), Run(tmp_path), artifact=True)
    logger.finish("finished")
    logger.finish("failed")
    logger.finish("interrupted")  # stop_seconds, SLURM's KillWait: summary.json is still to be written
    assert given == [560, 60, 10]
