"""A step of a size: it passes, it runs out of memory, or it fails for another reason."""

import lightning as L
import pytest
import torch
from commands import TINY

from crescendo.batch_size import highest_stage
from crescendo.experiment import prepare
from crescendo.trial_step import step_passes


@pytest.fixture
def tried(configuration):
    """Tries a step of 12 images; what the net saw; and the classifier."""
    experiment = prepare(configuration(*TINY, "regularization.label_smoothing={start: 0, end: 0.1}"))
    trainer = L.Trainer(
        accelerator="cpu", precision="bf16-mixed", logger=False, enable_checkpointing=False, barebones=True
    )
    classifier, stage, seen = experiment.classifier, highest_stage(experiment.curriculum), []

    def watch(net, arguments, output):
        seen.append((tuple(arguments[0].shape), output.dtype, classifier.stage.knobs["label_smoothing"]))

    classifier.net.register_forward_hook(watch)
    return lambda: step_passes(trainer, classifier, stage, 12, 3, held=1000), seen, classifier


def test_two_steps_as_the_last_stage_has_them(tried):
    step, seen, classifier = tried
    before = {name: value.clone() for name, value in classifier.net.named_parameters()}
    state = torch.get_rng_state()
    assert step()
    assert seen == [((12, 3, 32, 32), torch.bfloat16, 0.1)] * 2
    assert any(not torch.equal(value, before[name]) for name, value in classifier.net.named_parameters())
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("FIND was unable to find an engine to execute this computation"),
    ],
)
def test_memory_that_runs_out_is_an_answer(tried, monkeypatch, error):
    step, _, classifier = tried

    def fails(*_):
        raise error

    monkeypatch.setattr(classifier, "training_step", fails)
    assert not step()


def test_other_errors_are_errors(tried, monkeypatch):
    step, _, classifier = tried

    def fails(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(classifier, "training_step", fails)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        step()
