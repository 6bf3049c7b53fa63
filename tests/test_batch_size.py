"""trainer.find_batch_size on CPUs: from shapes and what is free, before anything is trained."""

import json
import logging
from types import SimpleNamespace

import pytest
import torch
from commands import REPOSITORY, TINY, command, only_run, train
from omegaconf import OmegaConf

from crescendo import batch_size
from crescendo.curriculum.schedule import Curriculum
from crescendo.devices import trainer_settings
from crescendo.errors import UserError
from crescendo.experiment import prepare
from crescendo.planning import plan_training, preview_training

FOUND = (
    *(override for override in TINY if not override.startswith("data.batch_size")),
    "trainer.find_batch_size=true",
)
MIB = 2**20
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone")


@pytest.fixture
def planned(configuration, monkeypatch):
    """The plan of a training on a machine with so many bytes left, and its configuration."""

    def plan(free, *overrides):
        monkeypatch.setattr(batch_size, "free_memory", lambda device: free)
        config = configuration(*FOUND, "plan=true", *overrides)
        return plan_training(config, list(overrides)), config

    return plan


def test_memory_ends_it(planned, caplog):
    caplog.set_level(logging.INFO, "crescendo")
    made, config = planned(8 * MIB)
    fit = made.batch
    assert (fit.limit, fit.devices, fit.parts, fit.tried) == ("memory", 1, 1, False)
    assert (fit.free, fit.margin, fit.resolution) == (8 * MIB, 0.3, 32)
    assert config.data.batch_size == fit.batch_size == fit.images == made.experiment.data.batch_size
    assert fit.images % 8 == 0
    assert 0.85 * 5.6 * MIB < fit.needed <= 5.6 * MIB
    assert made.experiment.plan.steps_per_epoch == 144 // fit.images
    rate = 0.05 * fit.images / 64
    assert (
        f"kept as it was for data.batch_size=64: scaled with the batch it would be optimizer.lr={rate:.3g}"
        in (caplog.text)
    )
    assert config.optimizer.lr == 0.05


def test_a_rate_that_is_given_for_256_images_follows_the_batch(planned, caplog):
    caplog.set_level(logging.INFO, "crescendo")
    made, config = planned(2**40, "optimizer=sgd_imagenet")
    assert config.data.batch_size == 144
    assert config.optimizer.lr == pytest.approx(0.1 * 144 / 256)
    assert made.experiment.plan.learning_rates[-1] == pytest.approx(config.optimizer.lr, rel=0.01)
    assert "optimizer.lr=0.0563 follows the batch: it was 0.025 for data.batch_size=64" in caplog.text


def test_the_images_end_it_and_parts_share_them(planned):
    made, config = planned(2**40, "trainer.accumulate_grad_batches=4")
    assert (made.batch.limit, made.batch.images, made.batch.parts) == ("images", 32, 4)  # of 144, in eights
    assert config.data.batch_size == 128


def test_what_is_typed_is_the_most(planned):
    made, config = planned(2**40, "data.batch_size=50")
    assert (made.batch.limit, config.data.batch_size) == ("bound", 50)
    made, config = planned(8 * MIB, "data.batch_size=144")
    assert made.batch.limit == "memory"
    assert config.data.batch_size < 144
    with pytest.raises(UserError, match=r"data.batch_size=50.* must be a multiple of 4"):
        planned(2**40, "data.batch_size=50", "trainer.accumulate_grad_batches=4")


def test_averages_and_workers_leave_less(planned):
    alone = planned(8 * MIB)[0].batch
    beside = planned(8 * MIB, "callbacks=ema", "data.num_workers=8")[0].batch
    assert beside.images < alone.images


def test_a_budget_pays_for_epochs_of_the_batch_that_was_found(planned):
    made, config = planned(2**40, "budget=1GMAC")
    assert made.experiment.plan.batch_size == 144
    assert made.experiment.plan.training_macs.of(made.experiment.plan.stages) <= 1e9
    assert config.trainer.max_epochs == made.experiment.curriculum.epochs


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.strategy=ddp_spawn", "not under trainer.strategy=ddp_spawn"),
        ("trainer.accumulate_grad_batches=150", "more than the 144 training images"),
    ],
)
def test_what_cannot_be_known_is_refused(planned, override, message):
    with pytest.raises(UserError, match=message):
        planned(2**40, override)


def test_too_little_memory_is_refused(planned):
    with pytest.raises(UserError, match="a step of 1 at 32 px takes about 1 MiB, and 1 MiB are free, 30%"):
        planned(MIB)
    with pytest.raises(UserError, match=r"or resolution, or trainer.precision=bf16-mixed\.$"):
        planned(MIB)
    with pytest.raises(UserError, match=r"take a smaller net or resolution\.$"):  # it has that already
        planned(MIB, "trainer.precision=bf16-mixed")


def test_the_highest_resolution_may_be_one_that_is_not_drawn_yet():
    curriculum = Curriculum(epochs=2, stages=2, resolution={"start": 64, "end": 16}, multiple_of=8)
    assert batch_size.highest_stage(curriculum).resolution == 64
    drawn = Curriculum(epochs=3, stages=3, resolution={"start": 8, "end": 512}, multiple_of=8, order="random")
    assert max(stage.resolution for stage in drawn.plan) < 512
    assert batch_size.highest_stage(drawn).resolution == 512


@pytest.mark.parametrize(("precision", "clip", "fused"), [("16-mixed", 1.0, False), ("16-mixed", None, None)])
def test_a_step_that_cannot_be_fused_is_not_estimated_as_one(configuration, precision, clip, fused):
    config = configuration(*FOUND)
    experiment = prepare(config)
    strategy = SimpleNamespace(root_device=torch.device("cuda"))
    trainer = SimpleNamespace(precision=precision, gradient_clip_val=clip, strategy=strategy)
    shapes = batch_size._shapes(trainer, config, experiment, experiment.curriculum.plan[-1])
    assert shapes.optimizer([torch.zeros(1)]).defaults["fused"] is fused


def test_lightning_is_not_given_the_setting(configuration):
    assert "find_batch_size" not in trainer_settings(configuration("trainer.find_batch_size=true").trainer)


def test_a_preview_is_refused(configuration):
    with pytest.raises(UserError, match="a preview measures nothing"):
        preview_training(configuration(*FOUND), list(FOUND), images=1)


def test_a_run_has_the_batch_on_record_and_keeps_it(tmp_path):
    process = train(*FOUND, "logger=csv", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "data.batch_size=144: the training has no more images; at 32 px" in " ".join(
        process.stdout.split()
    )
    run = only_run(tmp_path)
    config = (run / "config.yaml").read_text()
    assert OmegaConf.create(config).data.batch_size == 144
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"status": "interrupted"}))
    (run / "config.yaml").write_text(
        config.replace("batch_size: 144", "batch_size: 36")
    )  # of another machine
    process = train(*FOUND, f"resume={run}", "data.batch_size=35", cwd=tmp_path)
    assert process.returncode == 2
    assert "data.batch_size: 36 in the run, 35 was given" in process.stderr
    process = train(*FOUND, f"resume={run}", "data.batch_size=100", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert OmegaConf.load(run / "config.yaml").data.batch_size == 36


@pytest.mark.slow
@pytest.mark.parametrize("rooms", ["64,8", "8,64"])
def test_all_ranks_take_what_fits_the_tightest(tmp_path, rooms):
    script = str(REPOSITORY / "tests" / "scarce.py")
    process = command(*TORCHRUN, script, rooms, *FOUND, "trainer.devices=2", "logger=csv", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    told = " ".join(process.stdout.split())
    assert "of the 8 MiB that are free" in told
    batch = OmegaConf.load(only_run(tmp_path) / "config.yaml").data.batch_size
    assert f"data.batch_size={batch} (2 devices x {batch // 2}): the most that fits" in told
    assert json.loads((only_run(tmp_path) / "summary.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_ranks_that_lightning_starts_plan_and_train_with_one_batch(tmp_path):
    process = train(*FOUND, "trainer.devices=2", "logger=csv", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert "data.batch_size=144 (2 devices x 72)" in " ".join(process.stdout.split())
    assert json.loads((only_run(tmp_path) / "summary.json").read_text())["status"] == "finished"
