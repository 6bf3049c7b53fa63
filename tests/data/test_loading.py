"""Loading ahead to a GPU, which is played here: what a real one does with its time is not tested."""

from contextlib import contextmanager
from typing import NamedTuple

import lightning as L
import numpy as np
import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from torch.utils.data import DataLoader, Dataset

from crescendo.classifier import ImageClassifier
from crescendo.curriculum import Curriculum
from crescendo.curriculum.callback import CurriculumCallback
from crescendo.data import ImageData, Transform, datamodule, loading
from crescendo.data.faults import Faults
from crescendo.data.images import Sets, StoredImages
from crescendo.data.sampler import Draws
from crescendo.models import create_model
from crescendo.optim import Step

CPU = torch.device("cpu")


class FakeGpu:
    """The slowest GPU there may be: a copy is made when something waits for it, and not before.

    Attributes:
        copied: copies that were made, of those that were `asked` for, in this order.
        kept: tensors that are said to be in use by the stream that computes.
    """

    def __init__(self, monkeypatch):
        self.asked, self.copied, self.kept = [], 0, []
        self._within = False
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: self)
        monkeypatch.setattr(torch.cuda, "stream", self._inside)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self)
        monkeypatch.setattr(loading, "move_data_to_device", self._move)
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda part, _: self.kept.append(id(part)))

    @contextmanager
    def _inside(self, _):
        self._within = True
        yield
        self._within = False

    def _move(self, batch, device):
        assert self._within, "a copy on the stream that computes"
        empty = move_data_to_device(batch, device)
        empty = type(batch)(*(torch.zeros_like(p) if isinstance(p, torch.Tensor) else p for p in empty))
        self.asked.append((batch, empty))
        return empty

    def record_event(self):
        return len(self.asked)

    def wait_event(self, event):
        for batch, empty in self.asked[self.copied : event]:
            for source, target in zip(batch, empty, strict=True):
                if isinstance(target, torch.Tensor):
                    target.copy_(source)
        self.copied = max(self.copied, event)


@pytest.fixture
def gpu(monkeypatch):
    return FakeGpu(monkeypatch)


class Pair(NamedTuple):
    """A batch with a field that is no tensor."""

    images: torch.Tensor
    labels: torch.Tensor
    notes: tuple


def pairs(count):
    return [Pair(torch.full((2,), n + 1), torch.tensor([n + 5]), (("a.png", n),)) for n in range(count)]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_every_batch_arrives_whole_and_in_order(gpu, count):
    seen = [
        (batch.images.tolist(), batch.labels.tolist(), batch.notes)
        for batch in loading.one_ahead(iter(pairs(count)), CPU)
    ]
    assert seen == [([n + 1, n + 1], [n + 5], (("a.png", n),)) for n in range(count)]


def test_the_next_copy_is_under_way_when_a_batch_is_handed_out_and_not_waited_for(gpu):
    for number, batch in enumerate(loading.one_ahead(iter(pairs(4)), CPU)):
        assert len(gpu.asked) == min(number + 2, 4)
        assert gpu.copied == number + 1
        assert {id(batch.images), id(batch.labels)} <= set(gpu.kept)


class Numbers(Dataset):
    """Batches of their own indices."""

    def __init__(self):
        self.loaded = 0

    def __len__(self):
        return 8

    def __getitems__(self, draws):
        self.loaded += 1
        return Pair(torch.from_numpy(draws.indices), torch.zeros(1), ()), []


DRAWS = [Draws(np.arange(start, start + 2), 0, 8) for start in range(0, 8, 2)]


def test_without_a_gpu_nothing_is_loaded_ahead():
    loader = loading.Loader(Numbers(), DRAWS, Faults(), num_workers=0, device=CPU)
    for number, batch in enumerate(loader):
        assert batch.images.tolist() == [2 * number, 2 * number + 1]
        assert loader.dataset.loaded == number + 1
    assert not loader.pin_memory


class LoaderAhead(loading.Loader):
    """What a GPU gets, of which there is none."""

    def __iter__(self):
        return loading.one_ahead(self._timed(DataLoader.__iter__(self)), CPU)


class Recorded(ImageClassifier):
    """Writes down which images each training step saw."""

    def training_step(self, batch, batch_idx):
        self.seen = [*getattr(self, "seen", []), batch.indices.tolist()]
        return super().training_step(batch, batch_idx)


class SavedAt(L.Callback):
    def __init__(self, path, step):
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step and not self.path.exists():
            trainer.save_checkpoint(self.path)


def trained(place, *callbacks, path=None, workers=0, **settings):
    """Two epochs of four steps and a validation each, then a test: weights, batches and metrics."""
    curriculum = Curriculum(epochs=2, resolution=8)
    noise = torch.randint(0, 256, (42, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    images = StoredImages(noise.to(torch.uint8), np.arange(42) % 2)
    data = ImageData(
        Sets(images, images, images),
        *(Transform(1), curriculum, 0),
        batch_size=10,
        eval_batch_size=16,
        parts=2,
        num_workers=workers,
    )
    torch.manual_seed(0)
    classifier = Recorded(
        create_model("resnet20", 2, 1, width=4),
        lambda groups: torch.optim.SGD(groups, lr=0.1),
        Step(milestones=[0.5]),
        mean=[0.0],
        std=[1.0],
        num_classes=2,
    )
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        accumulate_grad_batches=2,
        callbacks=[CurriculumCallback(curriculum), *callbacks],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        default_root_dir=place,
        **settings,
    )
    trainer.fit(classifier, data, ckpt_path=path)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    trainer.test(classifier, data, verbose=False)
    metrics |= {name: float(value) for name, value in trainer.callback_metrics.items()}
    return classifier.state_dict(), classifier.seen, metrics


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable")  # the data module is
@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_ahead_is_the_same_and_goes_on_inside_an_epoch(tmp_path, gpu, monkeypatch, workers):
    """With gradient accumulation, validation and test; the position counts what was trained on."""
    weights, seen, metrics = trained(tmp_path, workers=workers)
    monkeypatch.setattr(datamodule, "Loader", LoaderAhead)
    path = tmp_path / "inside.ckpt"
    ahead = trained(tmp_path, SavedAt(path, step=6), workers=workers)
    assert len(gpu.asked) >= 2 * (8 + 3) + 3  # of training, validation and test
    assert torch.load(path, weights_only=True)["ImageData"] == {"epoch": 1, "batches": 4}
    resumed = trained(tmp_path, path=path, workers=workers)
    assert ahead[1] == seen
    assert resumed[1] == seen[12:]
    for other in (ahead, resumed):
        assert other[2] == metrics
        assert all(torch.equal(value, other[0][name]) for name, value in weights.items())


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_an_epoch_that_is_cut_short_leaves_what_was_ahead(tmp_path, gpu, monkeypatch):
    weights, seen, _ = trained(tmp_path, limit_train_batches=4)
    monkeypatch.setattr(datamodule, "Loader", LoaderAhead)
    ahead, others, _ = trained(tmp_path, limit_train_batches=4)
    assert others == seen
    assert all(torch.equal(value, ahead[name]) for name, value in weights.items())
