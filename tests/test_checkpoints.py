import logging
import pickle

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn

from crescendo.checkpoints import (
    AtomicCheckpointIO,
    BestCheckpoint,
    find_checkpoint,
    load_best,
    load_checkpoint,
)
from crescendo.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


class Scored(L.LightningModule):
    """Validates as it is told; its weight is the number of epochs done."""

    def __init__(self, scores):
        super().__init__()
        self.scores, self.weight = scores, nn.Parameter(torch.zeros(1))

    def training_step(self, batch, batch_idx):
        return -self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.log("val/accuracy", self.scores[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def fit(tmp_path, scores, mode="max", every=1, callbacks=(), resume=None):
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=len(scores),
        num_sanity_val_steps=0,
        check_val_every_n_epoch=every,
        callbacks=[BestCheckpoint(mode=mode), *callbacks],
        plugins=[AtomicCheckpointIO()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        log_every_n_steps=1,
    )
    loader = torch.utils.data.DataLoader(torch.zeros(1))
    trainer.fit(Scored(scores), loader, loader, ckpt_path=resume)
    places = {path.name: path for path in (tmp_path / "checkpoints").iterdir()}
    assert set(places) == {"best.ckpt", "last.ckpt", "previous.ckpt"}
    return {name: torch.load(path, weights_only=True) for name, path in places.items()}


@pytest.mark.parametrize(
    ("scores", "mode", "best"),
    [
        ([0.5, 0.75, 0.75, 0.6], "max", 2),
        ([0.75, 0.5, 0.75, 0.75], "max", 3),
        ([0.5, 0.75, 0.7], "max", 1),
        ([0.9, 0.5, 0.7], "max", 0),
        ([float("nan"), 0.5, 0.4], "max", 1),
        ([0.5, 0.25, 0.25, 0.4], "min", 2),
    ],
)
def test_the_best_epoch_is_kept_and_a_tie_goes_to_the_later(tmp_path, scores, mode, best):
    checkpoints = fit(tmp_path, scores, mode)
    last = len(scores) - 1
    for name, epoch in (("best.ckpt", best), ("last.ckpt", last), ("previous.ckpt", last - 1)):
        assert checkpoints[name]["epoch"] == epoch
        assert checkpoints[name]["state_dict"]["weight"].item() == epoch + 1


def test_an_epoch_without_validation_leaves_its_weights(tmp_path):
    checkpoints = fit(tmp_path, [0.5, 0.6, 0.7], every=2)
    assert checkpoints["best.ckpt"]["state_dict"]["weight"].item() == 2
    assert checkpoints["last.ckpt"]["state_dict"]["weight"].item() == 3


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_training_that_had_stopped_early_has_nothing_left(tmp_path):
    def stopping():
        return [EarlyStopping("val/accuracy", mode="max", patience=1)]

    scores = [0.5, 0.4, 0.3, 0.9]
    stopped = fit(tmp_path, scores, callbacks=stopping())["last.ckpt"]
    assert stopped["global_step"] < len(scores)
    last = str(tmp_path / "checkpoints" / "last.ckpt")
    resumed = fit(tmp_path, scores, callbacks=stopping(), resume=last)["last.ckpt"]
    assert resumed["global_step"] == stopped["global_step"]


@pytest.fixture
def written(tmp_path):
    """A run's directory with checkpoints of three epochs."""
    fit(tmp_path, [0.5, 0.6, 0.7])
    return tmp_path


def test_a_checkpoint_of_another_version_is_refused(written):
    path = written / "checkpoints" / "last.ckpt"
    assert find_checkpoint(written)[0] == path
    checkpoint = load_checkpoint(path)
    del checkpoint["format"]
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match="written by another version of crescendo"):
        find_checkpoint(written)


def test_a_damaged_best_checkpoint_gives_way_to_the_last(written, caplog):
    best, last = (written / "checkpoints" / name for name in ("best.ckpt", "last.ckpt"))
    best.write_bytes(best.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING, logger="crescendo"):
        assert load_best(written)["epoch"] == load_checkpoint(last)["epoch"]
    assert "best.ckpt is not a checkpoint" in caplog.text
    assert f"is tested with {last}" in caplog.text
    last.unlink()
    with pytest.raises(UserError, match=r"best\.ckpt is not a checkpoint"):
        load_best(written)


@pytest.fixture
def half_a_write(monkeypatch):
    def save(checkpoint, file):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", save)


def test_a_write_that_fails_leaves_the_old_file(tmp_path, request):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)
    request.getfixturevalue("half_a_write")
    with pytest.raises(OSError, match="no space"):
        AtomicCheckpointIO().save_checkpoint({"epoch": 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}


def test_a_first_write_that_fails_leaves_no_checkpoint(tmp_path, half_a_write):
    with pytest.raises(OSError, match="no space"):
        AtomicCheckpointIO().save_checkpoint({"epoch": 1}, tmp_path / "last.ckpt")
    assert not list(tmp_path.glob("*.ckpt"))


def test_a_write_replaces_and_makes_directories(tmp_path):
    path = tmp_path / "checkpoints" / "best.ckpt"
    for epoch in (1, 2):
        AtomicCheckpointIO().save_checkpoint({"epoch": epoch}, path)
        assert torch.load(path, weights_only=True) == {"epoch": epoch}
    assert list(path.parent.iterdir()) == [path]


def test_no_flipped_bit_goes_unseen(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.manual_seed(0)
    state = {"state_dict": {f"layer{index}": torch.randn(50, 10) for index in range(3)}, "epoch": 3}
    AtomicCheckpointIO().save_checkpoint(state, path)
    content = path.read_bytes()
    reported = 0
    for position in torch.randint(len(content), (300,)).tolist():
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            loaded = load_checkpoint(path)
        except UserError:
            reported += 1
        else:  # between the records: nothing that is read
            assert loaded["epoch"] == 3
            assert all(
                torch.equal(loaded["state_dict"][key], value) for key, value in state["state_dict"].items()
            )
    assert reported > 200


def test_a_pickle_in_place_of_a_checkpoint_is_refused_and_not_run(tmp_path):
    class Opens:
        def __reduce__(self):
            return (open, (str(tmp_path / "opened"), "w"))

    for name, write in (("plain.ckpt", pickle.dump), ("zipped.ckpt", torch.save)):
        with (tmp_path / name).open("wb") as file:
            write({"state_dict": Opens()}, file)
        with pytest.raises(UserError, match=f"{name} is not a checkpoint that can be read"):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "opened").exists()
