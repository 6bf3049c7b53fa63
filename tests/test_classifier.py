import math

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn import functional as F

from crescendo import mixing
from crescendo.classifier import ImageClassifier, TrainingSums
from crescendo.curriculum.schedule import Curriculum, Stage
from crescendo.data import Batch, ImageData, Transform
from crescendo.data.images import Sets, StoredImages
from crescendo.models.layers import Dropout, Net, WithAuxiliary
from crescendo.optim import Constant, Cosine

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")

EVERYTHING = {"dropout": 0.5, "mixup": 0.4, "cutmix": 1.0, "random_erasing": 0.5, "label_smoothing": 0.1}


class Small(Net):
    min_resolution = 1

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.dropout = Dropout(0.0)
        self.head = nn.Linear(8, 6)

    def forward(self, x):
        return self.head(self.dropout(self.stem(x).relu().mean((2, 3))))


class Answers(Net):
    """Answers value / 40 for an image of one value in 0..255, twice as likely as each other class.

    Of the others a later class is a trace more likely.
    """

    min_resolution = 1

    def forward(self, x):
        chosen = (x.mean((1, 2, 3)) * 255 / 40).round().long()
        return F.one_hot(chosen, 6) * math.log(2) + 1e-6 * torch.arange(6.0)


def classify(net=None, seed=0, knobs=EVERYTHING, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), **settings):
    torch.manual_seed(7)
    classifier = ImageClassifier(
        net or Small(),
        lambda groups: torch.optim.SGD(groups, lr=0.1),
        settings.pop("schedule", Constant()),
        mean=mean,
        std=std,
        num_classes=6,
        seed=seed,
        **settings,
    )
    classifier.enter(Stage(0, 0, 1, 8, knobs))
    return classifier


def batch(count=16):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return Batch(images, torch.arange(count) % 6, torch.arange(count))


def test_training_and_evaluation_have_the_chosen_loss():
    """An untrained head of zeros: each of six classes costs log 2, where cross-entropy would be log 6."""
    for loss, expected in {"cross_entropy": math.log(6), "binary_cross_entropy": math.log(2)}.items():
        classifier = classify(knobs={}, loss=loss)
        nn.init.zeros_(classifier.net.head.weight)
        nn.init.zeros_(classifier.net.head.bias)
        assert classifier.training_step(batch(), 0).item() == pytest.approx(expected, abs=1e-6)
        classifier.validation_step(batch(), 0)
        assert classifier.val_metrics["loss"].compute().item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("knobs", [EVERYTHING, {"mixup": 0.2}, {"cutmix": 1.0}, {"random_erasing": 0.5}])
def test_what_happens_to_a_batch_happens_on_its_device_and_is_not_read_there(monkeypatch, knobs):
    """torch's fake tensors stand in for a GPU's: they refuse another device, and to be read by the host."""
    monkeypatch.setattr(mixing, "_beta", lambda alpha, count, device: torch.rand(count, device=device))
    classifier = classify(knobs=knobs)
    with FakeTensorMode():
        images = torch.zeros(16, 3, 8, 8, dtype=torch.uint8, device="cuda")
        labels = torch.zeros(16, dtype=torch.int64, device="cuda")
        classifier.mean, classifier.std = (torch.ones(3, 1, 1, device="cuda") for _ in range(2))
        floats, targets = classifier.augment(Batch(images, labels, labels))
        logits = torch.zeros(16, 6, device="cuda")
        loss = mixing.cross_entropy(logits, targets, 0.1)
        classifier.train_sums.add(loss, mixing.count_correct(logits, targets), 16)
        assert [part.device.type for part in (floats, loss, classifier.train_sums._sums)] == ["cuda"] * 3
        with pytest.raises(DataDependentOutputException):
            float(loss)


@pytest.mark.parametrize("channels_last", [True, False])
def test_normalised_by_hand(channels_last):
    classifier = classify(mean=[0.5, 0.0, 1.0], std=[0.25, 1.0, 0.5], channels_last=channels_last)
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3).repeat(1, 3, 2, 1)
    floats = classifier.normalise(images)
    expected = torch.tensor([[-2.0, -1.2, 2.0], [0.0, 0.2, 1.0], [-2.0, -1.6, 0.0]])
    assert torch.allclose(floats[0], expected[:, None, :].expand(3, 2, 3), atol=1e-6)
    assert images[0, 0, 0].tolist() == [0, 51, 255]
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    assert floats.is_contiguous(memory_format=memory_format)
    assert classifier.net.stem.weight.is_contiguous(memory_format=memory_format)


def test_a_mean_and_a_deviation_may_be_whole_numbers():
    images = torch.full((1, 3, 2, 2), 51, dtype=torch.uint8)
    floats = classify(mean=[0, 0, 0], std=[1, 1, 1]).normalise(images)
    assert floats.unique().tolist() == pytest.approx([0.2])


def gradients(classifier, batch_idx=0):
    loss = classifier.training_step(batch(), batch_idx)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, classifier.net.parameters())])


def test_the_same_address_is_the_same_step_bit_by_bit():
    first = gradients(classify())
    torch.manual_seed(12345)
    torch.rand(3)
    assert torch.equal(gradients(classify()), first)


@pytest.mark.parametrize("knob", list(EVERYTHING)[:4])
@pytest.mark.parametrize("other", ["seed", "batch", "epoch", "rank"])
def test_another_address_draws_other_numbers(knob, other, monkeypatch):
    knobs = {knob: EVERYTHING[knob]}
    first = gradients(classify(knobs=knobs))
    if other == "epoch":
        monkeypatch.setattr(ImageClassifier, "current_epoch", 1)
    if other == "rank":
        monkeypatch.setattr(ImageClassifier, "global_rank", 1)
    second = gradients(classify(seed=int(other == "seed"), knobs=knobs), batch_idx=int(other == "batch"))
    assert not torch.equal(second, first)


def test_without_knobs_a_step_is_plain_cross_entropy():
    classifier = classify(knobs={})
    net = classifier.net
    images = batch().images.float() / 255 * 4 - 2
    expected = F.cross_entropy(net(images), batch().labels)
    for step in (0, 1):
        assert classifier.training_step(batch(), step).item() == pytest.approx(expected.item(), rel=1e-5)


def test_label_smoothing_reaches_the_loss():
    classifier = classify(knobs={"label_smoothing": 0.6})  # a tenth to each of six classes
    log_probabilities = classifier.net(batch().images.float() / 255 * 4 - 2).log_softmax(1)
    target = 0.4 * F.one_hot(batch().labels, 6) + 0.1
    expected = -(target * log_probabilities).sum(1).mean().item()
    assert classifier.training_step(batch(), 0).item() == pytest.approx(expected, rel=1e-5)


class TwoHeads(Small):
    """Its auxiliary head answers as its head does."""

    def forward(self, x):
        logits = super().forward(x)
        return WithAuxiliary(logits, (logits, logits), weight=0.25) if self.training else logits


def test_auxiliary_heads_add_their_weighted_losses():
    plain, summed = classify(Small(), knobs={}), classify(TwoHeads(), knobs={})
    summed.load_state_dict(plain.state_dict())
    once = plain.training_step(batch(), 0).item()
    assert summed.training_step(batch(), 0).item() == pytest.approx(1.5 * once)  # 1 + 2 x 0.25
    assert summed.eval()(batch().images).shape == (16, 6)


def test_training_sums_weigh_batches_by_their_images_and_start_again():
    sums = TrainingSums()
    assert sums.take(lambda tensor: tensor) == (0.0, 0.0, 0)
    sums.add(torch.tensor(2.0), torch.tensor(3.0), 4)
    sums.add(torch.tensor(1.0), torch.tensor(1.5), 2)
    assert sums.take(lambda tensor: tensor) == (10.0, 4.5, 6)
    sums.add(torch.tensor(1.0), torch.tensor(1.0), 1)
    assert sums.take(lambda tensor: 2 * tensor) == (2.0, 2.0, 2)  # as if two devices had the same


def test_a_step_adds_its_own_loss():
    classifier = classify()
    loss = classifier.training_step(batch(), 0)
    total, right, images = classifier.train_sums.take(lambda tensor: tensor)
    assert total == pytest.approx(16 * loss.item())
    assert images == 16
    assert 0 <= right <= 16


# with a Trainer


def data(count=37, eval_batch_size=16, epochs=2, **settings):
    """Images of one value that says what Answers answers: the first nine wrongly."""
    labels = np.arange(count) % 6
    answers = np.where(np.arange(count) < 9, (labels + 1) % 6, labels)
    images = torch.from_numpy(answers * 40).to(torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4).clone()
    part = StoredImages(images, labels)
    settings = {"batch_size": 12} | settings
    curriculum = Curriculum(epochs, 4)
    return ImageData(
        Sets(part, part, part), Transform(3), curriculum, 0, eval_batch_size=eval_batch_size, **settings
    )


def trainer(tmp_path, **settings):
    return L.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=tmp_path,
        log_every_n_steps=1,
        **{"enable_checkpointing": False, "max_epochs": 2} | settings,
    )


BY_HAND = {
    "accuracy": 28 / 37,
    "accuracy_top5": 35 / 37,  # class 0 is the last of six where 1 is answered: images 0 and 6
    "loss": (28 * math.log(7 / 2) + 9 * math.log(7)) / 37,
}


@pytest.mark.parametrize("eval_batch_size", [16, 36, 37])
def test_test_metrics_count_each_sample_once(tmp_path, eval_batch_size):
    classifier = classify(Answers(), mean=[0.0] * 3, std=[1.0] * 3)
    runner = trainer(tmp_path)
    runner.test(classifier, data(eval_batch_size=eval_batch_size), verbose=False)
    expected = {f"test/{name}": value for name, value in BY_HAND.items()}
    expected["test/calibration_error"] = 28 / 37 - 2 / 7  # every answer has a confidence of 2/7
    assert {name: float(value) for name, value in runner.callback_metrics.items()} == pytest.approx(
        expected, abs=1e-5
    )
    matrix = torch.diag(torch.tensor([7, 6, 6, 6, 6, 6]))
    for label, wrong in enumerate([2, 2, 2, 1, 1, 1]):
        matrix[label, label] -= wrong
        matrix[label, (label + 1) % 6] += wrong
    assert torch.equal(classifier.confusion_matrix, matrix)
    answers = classifier.answers
    assert answers.indices.tolist() == list(range(37))
    assert answers.labels.tolist() == [index % 6 for index in range(37)]
    assert np.flatnonzero(answers.wrong).tolist() == list(range(9))
    assert answers.probabilities == pytest.approx(np.full(37, 2 / 7), abs=1e-5)
    assert answers.label_probabilities == pytest.approx(np.where(answers.wrong, 1 / 7, 2 / 7), abs=1e-5)


def test_validation_metrics_count_each_sample_once_and_start_again(tmp_path):
    classifier = classify(Answers(), mean=[0.0] * 3, std=[1.0] * 3)
    runner = trainer(tmp_path)
    expected = {f"val/{name}": value for name, value in BY_HAND.items()}
    for _ in range(2):
        runner.validate(classifier, data(), verbose=False)
        values = {name: float(value) for name, value in runner.callback_metrics.items()}
        assert values == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("parts", [1, 2])
def test_the_learning_rate_follows_its_schedule_by_optimizer_steps(tmp_path, parts):
    rates = []

    class Note(L.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            rates.append(optimizer.param_groups[0]["lr"])

    classifier = classify(schedule=Cosine(warmup_epochs=1))
    runner = trainer(tmp_path, callbacks=[Note()], accumulate_grad_batches=parts)
    runner.fit(classifier, data(parts=parts))
    # three steps up, then half a cosine of three steps, each read in the middle of a step
    assert rates == pytest.approx([0.1 / 6, 0.05, 0.5 / 6, 0.0933013, 0.05, 0.0066987], rel=1e-5)


def plain(value):
    if isinstance(value, dict):
        return all(isinstance(key, str | int) and plain(inside) for key, inside in value.items())
    if isinstance(value, list | tuple):
        return all(map(plain, value))
    return value is None or type(value) in (str, int, float, bool, torch.Tensor)


def test_a_checkpoint_is_plain_and_knows_how_its_weights_validated(tmp_path):
    classifier = classify()
    runner = trainer(tmp_path, enable_checkpointing=True)
    runner.fit(classifier, data())
    checkpoint = torch.load(runner.checkpoint_callback.best_model_path, weights_only=True)
    assert plain(checkpoint)
    assert set(checkpoint["validation"]) == {"val/accuracy", "val/accuracy_top5", "val/loss"}
    assert checkpoint["validation"]["val/loss"] == runner.callback_metrics["val/loss"].item()
    assert set(checkpoint["state_dict"]) == {f"net.{name}" for name in Small().state_dict()}
    again = classify()
    again.load_state_dict(checkpoint["state_dict"])
    assert torch.equal(again.net.head.weight, classifier.net.head.weight)


def test_the_same_seed_trains_the_same_weights(tmp_path):
    weights = []
    for _ in range(2):
        classifier = classify()
        trainer(tmp_path).fit(classifier, data())
        weights.append(torch.cat([parameter.flatten() for parameter in classifier.net.parameters()]))
        torch.rand(5)
    assert torch.equal(*weights)


def test_probabilities_are_predicted():
    classifier = classify().eval()
    probabilities = classifier.predict_step(batch(), 0)
    assert probabilities.sum(1).tolist() == pytest.approx([1] * 16)
    assert torch.equal(probabilities.argmax(1), classifier(batch().images).argmax(1))
