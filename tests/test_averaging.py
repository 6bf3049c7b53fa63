"""The moving average with a warm-up, step by step."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from crescendo.averaging import MovingAveraging, WarmedAveraging


class Line(L.LightningModule):
    """Weight 1, 2, 3, ... after each optimizer step; a counter and a buffer that follow it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def training_step(self, batch, batch_idx):
        return -self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def on_before_zero_grad(self, optimizer):
        self.mean.copy_(self.weight.detach())
        self.count.fill_(round(self.weight.item()))


def trained(steps, place, decay=0.5, ckpt_path=None):
    """The averaged module after so many steps; third.ckpt in `place` is its third step."""
    trainer = L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        callbacks=[WarmedAveraging(decay), ModelCheckpoint(place, "third", every_n_train_steps=3)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    line = Line()
    trainer.fit(line, DataLoader(range(20)), ckpt_path=ckpt_path)
    return line


pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*log_every_n_steps",
    "ignore:The dirpath has changed",
    "ignore:You.re resuming from a checkpoint that ended before the epoch ended",
)


def test_the_decay_rises_to_its_end(tmp_path):
    """Decays 2/11, 3/12, 4/13, then min(.3, 5/14) = .3; the weights are 1, 2, 3, 4."""
    line = trained(4, tmp_path, decay=0.3)
    average = 0.0
    for decay, weight in zip((2 / 11, 3 / 12, 0.3, 0.3), (1, 2, 3, 4), strict=True):
        average = decay * average + (1 - decay) * weight
    assert line.weight.item() == pytest.approx(average, abs=1e-6)


def test_buffers_are_averaged_and_counters_taken_over(tmp_path):
    line = trained(3, tmp_path)
    assert 0 < line.mean.item() < 2
    assert line.count.item() == 2  # set before the third step


def test_a_resumed_average_is_that_of_a_whole_training(tmp_path):
    whole = trained(5, tmp_path)
    resumed = trained(5, tmp_path / "resumed", ckpt_path=tmp_path / "third.ckpt")
    assert torch.equal(resumed.weight, whole.weight)
    assert torch.equal(resumed.mean, whole.mean)


@pytest.mark.parametrize("kind", [MovingAveraging, WarmedAveraging])
def test_the_average_is_where_the_trainer_moves_the_net(kind):
    """To its device after the callbacks are set up and before they hear that the fit begins."""
    averaging, trainer, line = kind(decay=0.5), L.Trainer(logger=False, accelerator="cpu"), Line()
    averaging.setup(trainer, line, "fit")
    line.to("meta")
    averaging.on_fit_start(trainer, line)
    assert {each.device.type for each in averaging._average_model.module.state_dict().values()} == {"meta"}
    assert averaging._average_model.n_averaged.device.type == "cpu"


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_that_averages_nothing_or_never_moves_is_refused(decay):
    with pytest.raises(ValueError, match=f"decay={decay:g}"):
        WarmedAveraging(decay)
