"""What a GPU does that a CPU cannot show; skipped where there is none."""

import csv
import json
from typing import NamedTuple

import pytest
import torch
from commands import TINY, crescendo, only_run, train
from omegaconf import OmegaConf
from test_resume import killed
from whole_runs import assert_same_end

from crescendo.analysis.profile import training_loss
from crescendo.data.loading import one_ahead
from crescendo.models import create_model, list_models
from crescendo.models.registry import find_entry

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

ON_GPU = (
    *(typed for typed in TINY if typed != "trainer=cpu"),
    "logger=csv",
    "trainer=gpu",
    "data.num_workers=2",
)
DROPPING = ("model=efficientnet_b0", "model.width=0.25", "model.depth=0.5", "curriculum.resolution.start=32")
CUDA = torch.device("cuda")


def ran(*overrides, cwd):
    """The directory of a whole run."""
    cwd.mkdir(exist_ok=True)
    process = train(*overrides, cwd=cwd)
    assert process.returncode == 0, process.stderr
    return only_run(cwd)


def losses(run):
    """Of the logged steps."""
    with (run / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


class Batch(NamedTuple):
    images: torch.Tensor
    number: int


def test_batches_are_whole_while_the_gpu_is_busy():
    """Copies go on beside a computation that lasts longer than loading; memory is used again at once."""
    sums = []
    pinned = (Batch(torch.full((2**22,), float(n)).pin_memory(), n) for n in range(12))
    for batch in one_ahead(pinned, CUDA):
        torch.cuda._sleep(20_000_000)  # cycles
        sums.append((batch.images.double().mean(), batch.number))
        del batch
    assert [(float(mean), number) for mean, number in sums] == [(n, n) for n in range(12)]


@pytest.mark.parametrize("overrides", [(), DROPPING])
def test_a_killed_run_ends_as_one_that_was_not(tmp_path, uninterrupted, overrides):
    typed = (*ON_GPU, "callbacks=ema", "callbacks.checkpoint.every_n_steps=1", "trainer.max_epochs=4")
    typed = (*typed, "regularization.mixup=0.2", "deterministic=true", *overrides)
    run = killed(7, *typed, cwd=tmp_path)
    resumed = train(f"resume={run}", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_end(run, uninterrupted(*typed))


def test_single_precision_has_the_losses_of_the_cpu(tmp_path):
    typed = (
        *ON_GPU,
        "trainer.precision=32-true",
        "tf32=false",
        "trainer.log_every_n_steps=1",
        "optimizer.lr=0.01",
    )
    ours = losses(ran(*typed, cwd=tmp_path / "ours"))
    theirs = losses(ran(*typed, "trainer.accelerator=cpu", cwd=tmp_path / "theirs"))
    assert len(ours) >= 8
    assert ours == pytest.approx(theirs, rel=2e-3)


def test_a_gpu_trains_in_bfloat16_and_records_it(tmp_path):
    run = ran(*ON_GPU, cwd=tmp_path)
    assert OmegaConf.load(run / "config.yaml").trainer.precision == "bf16-mixed"


@pytest.mark.parametrize("mode", ["true", "reduce-overhead"])
def test_compiled_steps_have_the_losses_of_eager_ones(tmp_path, mode):
    typed = (*ON_GPU, *DROPPING, "regularization=none", "trainer.log_every_n_steps=1", "optimizer.lr=0.01")
    eager = ran(*typed, cwd=tmp_path / "eager")
    compiled = ran(*typed, f"compile={mode}", cwd=tmp_path / "compiled")
    assert losses(compiled) == pytest.approx(losses(eager), rel=0.05)
    assert json.loads((compiled / "summary.json").read_text())["compile_seconds"] > 0


def test_ddp_on_one_device(tmp_path):
    run = ran(*ON_GPU, "trainer.strategy=ddp", "trainer.sync_batchnorm=true", "model=resnet20", cwd=tmp_path)
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"


def test_a_probe_tells_the_allocators_peak(tmp_path):
    process = train(*ON_GPU, "plan=probe", "model=resnet20", "model.width=64", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    assert torch.cuda.get_device_name() in process.stdout
    assert "peak memory" in process.stdout


def test_a_trained_run_is_used(tmp_path, image_folder):
    typed = ("data=folder", f"data.root={image_folder}", "data.batch_size=8", "model=resnet18")
    typed = (
        *typed,
        "model.width=0.25",
        "curriculum.resolution={start:32,end:64}",
        "trainer=gpu",
        "logger=csv",
    )
    run = ran(*typed, "data.num_workers=2", "trainer.max_epochs=3", "deterministic=true", cwd=tmp_path)
    photo = next(image_folder.rglob("*.jpg"))
    for arguments in (
        ("evaluate", str(run), "--resolutions", "48,64", "--tta"),
        ("predict", str(run), str(image_folder), "--csv"),
        ("explain", str(run), str(photo), "--out", str(tmp_path / "cam.png")),
        ("reproduce", str(run)),
    ):
        process = crescendo(*arguments, cwd=tmp_path)
        assert process.returncode == 0, f"{arguments}: {process.stdout}{process.stderr}"


@pytest.mark.parametrize("name", list_models())
def test_a_step_of_mixed_precision(name):
    """Every parameter has a gradient, finite, where activations are bfloat16 and channels last."""
    channels = find_entry(name).in_channels
    net = create_model(name, 10, channels).to(device=CUDA, memory_format=torch.channels_last).train()
    side = max(64, net.min_resolution) if net.max_resolution is None else net.max_resolution
    images = torch.randn(4, channels, side, side, device=CUDA).to(memory_format=torch.channels_last)
    with torch.autocast("cuda", torch.bfloat16):
        loss = training_loss(net(images), torch.arange(4, device=CUDA))
    loss.backward()
    assert torch.isfinite(loss)
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
