"""trainer.find_batch_size on a GPU whose memory was made scarce."""

import gc
import json
from functools import partial

import pytest
import torch
from commands import REPOSITORY, TINY, command, only_run, train
from omegaconf import OmegaConf

from crescendo import batch_size
from crescendo.analysis.free_memory import free_memory
from crescendo.analysis.memory import measure_step_memory
from crescendo.models import create_model
from crescendo.planning import plan_training

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.filterwarnings("default"),  # what Lightning and torch say of the GPU
]

ROOM = 2**30
SGD = partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
OWN_PROCESS = {"PYTHONUNBUFFERED": "1"}  # not one that is forked, which CUDA does not like

# About 1.5 MiB an image at 32 px: memory ends it long before the images do.
RESNET = (
    "data=synthetic",
    "data.source.samples=4096",
    "model=resnet20",
    "curriculum.stages=2",
    "curriculum.resolution.start=24",
    "trainer.accelerator=gpu",
    "trainer.max_epochs=2",
    "trainer.find_batch_size=true",
    "logger=csv",
)


@pytest.fixture
def room():
    """1 GiB for the tensors of this process; its number of bytes."""
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(ROOM / total)
    yield ROOM
    torch.cuda.set_per_process_memory_fraction(1.0)
    gc.collect()
    torch.cuda.empty_cache()


def test_a_limit_of_the_process_is_not_free(room):
    assert 0.5 * ROOM < free_memory(torch.device("cuda")) <= ROOM


@pytest.mark.parametrize("extra", [(), ("trainer.precision=bf16-mixed", "callbacks=ema")])
def test_the_batch_that_is_found_trains(tmp_path, extra):
    script = str(REPOSITORY / "tests" / "scarce.py")
    process = command(script, str(ROOM // 2**20), *RESNET, *extra, cwd=tmp_path, **OWN_PROCESS)
    assert process.returncode == 0, process.stderr
    assert "the most that fits" in " ".join(process.stdout.split())
    found = only_run(tmp_path)
    batch = OmegaConf.load(found / "config.yaml").data.batch_size
    assert 64 <= batch < 3686
    assert batch % 8 == 0
    summary = json.loads((found / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert 0.4 * ROOM < summary["peak_memory_bytes"] <= ROOM


@pytest.mark.parametrize(("precision", "autocast"), [("32-true", None), ("bf16-mixed", torch.bfloat16)])
def test_twice_the_batch_does_not_fit(configuration, room, precision, autocast):
    config = configuration(*RESNET, "plan=true", f"trainer.precision={precision}")
    fit = plan_training(config, []).batch
    assert fit is not None
    assert (fit.limit, fit.tried, fit.resolution) == ("memory", True, 32)
    assert fit.batch_size == config.data.batch_size
    torch.cuda.empty_cache()
    peak = measure_step_memory(create_model("resnet20", 10), 32, fit.images, SGD, autocast=autocast)
    assert 0.5 * fit.free < peak <= room
    assert fit.needed == pytest.approx(peak, rel=0.25)  # cuDNN takes for itself what is left
    gc.collect()
    torch.cuda.empty_cache()
    with pytest.raises(torch.OutOfMemoryError):
        measure_step_memory(create_model("resnet20", 10), 32, 2 * fit.images, SGD, autocast=autocast)


def test_an_estimate_that_is_too_low_is_found_out(configuration, room, monkeypatch):
    """The step is tried, a tenth less each time, and leaves nothing behind."""
    config = configuration(*RESNET, "plan=true")
    estimated = plan_training(config, []).batch.images
    largest = batch_size.largest_fitting
    monkeypatch.setattr(batch_size, "largest_fitting", lambda *arguments: 3 * largest(*arguments))
    gc.collect()
    before = torch.cuda.memory_allocated()
    lower = plan_training(configuration(*RESNET, "plan=true"), []).batch
    assert 0.6 * estimated < lower.images < 1.5 * estimated
    assert lower.tried
    gc.collect()
    assert torch.cuda.memory_allocated() <= before + 2**20


def test_under_ddp(tmp_path):
    """A process group of one: the ranks agree on the GPU, the images end it."""
    typed = [override for override in TINY if not override.startswith(("data.batch_size", "trainer=cpu"))]
    devices = ("trainer.accelerator=gpu", "trainer.strategy=ddp", "trainer.devices=1")
    process = train(
        *typed, *devices, "trainer.find_batch_size=true", "logger=csv", cwd=tmp_path, **OWN_PROCESS
    )
    assert process.returncode == 0, process.stderr
    assert "and one has passed" in " ".join(process.stdout.split())
    assert OmegaConf.load(only_run(tmp_path) / "config.yaml").data.batch_size == 144
