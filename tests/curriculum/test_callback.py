import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from crescendo import mixing
from crescendo.classifier import ImageClassifier
from crescendo.curriculum.callback import CurriculumCallback
from crescendo.curriculum.schedule import Curriculum, Ramp
from crescendo.data import Augmentation, ImageData, Transform, randaugment
from crescendo.data.images import Sets, StoredImages
from crescendo.models.layers import Dropout, DropPath, Net
from crescendo.optim import Constant

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint"),
    pytest.mark.filterwarnings("ignore:.*checkpoint that ended before the epoch ended"),
]

STEPS = 3
KNOBS = {
    "dropout": Ramp(0.1, 0.5),
    "drop_path": Ramp(0, 0.2),
    "randaugment": Ramp(2, 10),
    "mixup": Ramp(0, 0.4),
    "cutmix": Ramp(0.5, 1),
}
# resolution; rate of dropout, and of drop path at half of its depth; magnitude; alphas; by hand
FIRST = (8, 0.1, 0.0, 2, 0.0, 0.5)
SECOND = (12, 0.3, 0.05, 6, 0.2, 0.75)
THIRD = (16, 0.5, 0.1, 10, 0.4, 1.0)
EPOCHS = [FIRST, FIRST, SECOND, THIRD, THIRD]


@pytest.fixture(autouse=True)
def alphas(monkeypatch):
    """What each batch was mixed with; and RandAugment makes images brighter by its magnitude."""
    noted, mix = [], mixing.mix

    def noting(images, labels, mixup, cutmix):
        noted.append((round(mixup, 6), round(cutmix, 6)))
        return mix(images, labels, mixup, cutmix)

    def brighter(images, numbers, magnitude):
        return images + round(magnitude)

    monkeypatch.setattr(mixing, "mix", noting)
    monkeypatch.setattr(randaugment, "rand_augment", brighter)
    return noted


class Probe(Net):
    """Notes what it sees in training."""

    min_resolution = 1

    def __init__(self):
        super().__init__()
        self.branch = nn.Conv2d(1, 1, 1)
        self.drop_path = DropPath(0.3, share=0.5)
        self.dropout = Dropout(0.3)
        self.head = nn.Linear(1, 4)
        self.seen = []

    def forward(self, x):
        if self.training:
            rates = (self.dropout.probability.item(), self.drop_path.probability.item())
            self.seen.append((x.shape[-1], *(round(rate, 6) for rate in rates)))
            self.inputs = x
        x = x + self.drop_path(self.branch(x))
        return self.head(self.dropout(x.mean((2, 3))))


class Witness(ImageClassifier):
    """Notes which epoch a batch was seen in, and whether its labels and images belong together."""

    def on_fit_start(self):
        self.epochs, self.together, self.magnitudes = [], [], []

    def training_step(self, batch, batch_idx):
        self.epochs.append(self.current_epoch)
        levels = torch.unique(batch.images.flatten(1), dim=1)
        self.magnitudes.append((batch.images % 50 - 3).unique().item())
        self.together.append(levels.shape[1] == 1 and torch.equal(levels[:, 0] // 50, batch.labels))
        return super().training_step(batch, batch_idx)


def sets():
    """Images in a shade for each class."""
    labels = np.arange(60) % 4
    shades = torch.from_numpy(labels).to(torch.uint8)[:, None, None, None] * 50 + 3
    images = StoredImages(shades.expand(-1, 1, 8, 8).clone(), labels)
    return Sets(images, images.subset(np.arange(8)), images.subset(np.arange(8)))


def witness():
    return Witness(Probe(), torch.optim.SGD, Constant(), mean=[0.5], std=[0.2], num_classes=4)


def seen(classifier, alphas):
    """What each step saw: in the net, in the images that the loader made, in the mixing."""
    steps = zip(classifier.net.seen, classifier.magnitudes, alphas[-len(classifier.epochs) :], strict=True)
    return [(*rates, magnitude, *mixed) for rates, magnitude, mixed in steps]


def fit(tmp_path, classifier, *callbacks, knobs=KNOBS, workers=0, resume=None, epochs=5):
    curriculum = Curriculum(epochs, Ramp(8, 16), 3, [2, 1, 2], knobs, multiple_of=4)
    data = ImageData(
        sets(),
        Transform(1, augmentation=Augmentation(flip=True)),
        curriculum,
        0,
        batch_size=20,
        eval_batch_size=8,
        num_workers=workers,
    )
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        callbacks=[CurriculumCallback(curriculum), *callbacks],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(callbacks),
        use_distributed_sampler=False,
        default_root_dir=tmp_path,
        log_every_n_steps=1,
    )
    trainer.fit(classifier, data, ckpt_path=resume)
    return trainer


@pytest.mark.parametrize("workers", [0, 2])
def test_the_net_sees_the_stage_of_its_epoch(tmp_path, workers, alphas):
    classifier = witness()
    trainer = fit(tmp_path, classifier, workers=workers)
    assert trainer.train_dataloader.persistent_workers == (workers > 0)
    assert classifier.epochs == [epoch for epoch in range(5) for _ in range(STEPS)]
    assert seen(classifier, alphas) == [EPOCHS[epoch] for epoch in classifier.epochs]
    assert classifier.together == [True] * 5 * STEPS


def test_mixing_and_erasing_begin_with_their_stage(tmp_path):
    classifier = witness()
    shades = []

    class Note(L.Callback):
        def on_train_batch_end(self, *_):
            shades.append(len(classifier.net.inputs.unique()))

    knobs = {"mixup": Ramp(0, 1.0), "cutmix": Ramp(0, 1.0), "random_erasing": Ramp(0, 0.9)}
    fit(tmp_path, classifier, Note(), knobs=knobs)
    assert max(shades[: 2 * STEPS]) == 4  # one for each class
    assert min(shades[2 * STEPS :]) > 6


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumed_inside_an_epoch_has_the_stage_of_that_epoch(tmp_path, workers, alphas):
    """Lightning does not begin that epoch anew: on_train_epoch_start is not called."""
    inside = 4 * STEPS + 1  # one step into the last epoch
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=inside, save_top_k=-1)
    fit(tmp_path, witness(), keep)
    classifier = witness()
    fit(tmp_path, classifier, workers=workers, resume=tmp_path / f"step={inside}.ckpt")
    assert set(classifier.epochs) == {4}
    assert set(seen(classifier, alphas)) == {EPOCHS[4]}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumed_between_epochs_has_the_next_stage(tmp_path, workers, alphas):
    keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    fit(tmp_path, witness(), keep)
    classifier = witness()
    fit(tmp_path, classifier, workers=workers, resume=tmp_path / "epoch=1.ckpt")
    assert classifier.epochs == [epoch for epoch in (2, 3, 4) for _ in range(STEPS)]
    assert seen(classifier, alphas) == [EPOCHS[epoch] for epoch in classifier.epochs]
