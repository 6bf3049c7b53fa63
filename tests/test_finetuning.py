"""What fine-tuning trains, at which rates, and that all else stays as it was, bit by bit."""

from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from crescendo import batch_norm
from crescendo.analysis.memory import estimate_step_memory
from crescendo.bench import measure
from crescendo.classifier import ImageClassifier
from crescendo.config import validate
from crescendo.curriculum.schedule import Stage
from crescendo.data.datamodule import Batch
from crescendo.devices import trainer_settings
from crescendo.errors import UserError
from crescendo.experiment import prepare
from crescendo.finetuning import Finetuning
from crescendo.models import create_model
from crescendo.optim import Constant, make_optimizer
from crescendo.probe import probe
from crescendo.starting_weights import follow_weights
from crescendo.trial_step import step_passes
from crescendo.validation import StatisticsRefresh

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01)
START = (
    "data=synthetic",
    "data.source.samples=80",
    "data.batch_size=16",
    "data.num_classes=4",
    "model=resnet20",
    "model.width=4",
    "curriculum=constant",
    "curriculum.resolution=16",
    "trainer=cpu",
    "trainer.max_epochs=2",
    "bn_refresh=2",
    "callbacks=ema",
    "logger=csv",
)


def rates(name, **settings):
    """The learning rate of each parameter, by name."""
    net = create_model(name, num_classes=3, in_channels=1 if name == "lenet5" else 3)
    finetuning = Finetuning(**settings)
    finetuning.freeze(net)
    optimizer = make_optimizer(SGD, net, rates=finetuning.rates(net))
    rate_of = {id(each): group["lr"] for group in optimizer.param_groups for each in group["params"]}
    assert all("lr_factor" not in group for group in optimizer.param_groups)
    return {name: rate_of[id(each)] for name, each in net.named_parameters() if id(each) in rate_of}


@pytest.mark.parametrize(
    ("name", "expected"),
    [  # at .1, halved from part to part; the head's is twice the optimizer's
        ("lenet5", {"f6.weight": 0.2, "c5.bias": 0.05, "s4.gain": 0.025, "c3.six.weight": 0.0125}),
        ("vgg11_bn", {"head.6.weight": 0.2, "head.3.bias": 0.05, "head.0.weight": 0.05}),
        ("googlenet", {"head.1.bias": 0.2, "stages.2.5b.branch_1x1.0.weight": 0.05}),
        ("resnet20", {"head.bias": 0.2, "stages.0.2.layers.1.bias": 0.0125, "stem.0.weight": 0.00625}),
        ("efficientnet_b0", {"head.weight": 0.2, "last_conv.0.weight": 0.05, "stem.1.weight": 0.1 / 2**9}),
    ],
)  # fmt: skip
def test_rates_fall_from_the_head_to_the_images(name, expected):
    found = rates(name, method="all", layer_decay=0.5, head_lr_factor=2.0)
    for parameter, rate in expected.items():
        assert found[parameter] == pytest.approx(rate), parameter


def test_the_first_group_is_the_heads_and_norms_do_not_decay():
    net = create_model("resnet20", num_classes=3)
    optimizer = make_optimizer(SGD, net, rates=Finetuning(method="all", layer_decay=0.5).rates(net))
    assert optimizer.param_groups[0]["params"] == [net.head.weight]
    assert optimizer.param_groups[1]["params"] == [net.head.bias]
    shares = [share for share in (1, 0.5, 0.25, 0.125, 0.0625) for _ in range(2)]
    assert [group["lr"] for group in optimizer.param_groups] == [0.1 * share for share in shares]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0] * 5


def test_equal_rates_are_one_pair_of_groups():
    net = create_model("resnet20")
    optimizer = make_optimizer(SGD, net, rates=Finetuning(method="all").rates(net))
    assert [len(group["params"]) for group in optimizer.param_groups] == [20, 39]


def test_a_probe_trains_the_head_alone_and_its_step_needs_memory_for_no_more():
    assert set(rates("resnet20", method="head", head_lr_factor=10.0).items()) == {
        ("head.weight", 1.0),
        ("head.bias", 1.0),
    }
    finetuning = Finetuning(method="head")
    net = create_model("resnet20", num_classes=3)
    whole = estimate_step_memory(net, 32, 64, SGD)
    finetuning.freeze(net)
    probe = estimate_step_memory(net, 32, 64, SGD, train_mode=finetuning.train_mode, rates=finetuning.rates)
    assert (probe.gradients, probe.optimizer) == (4 * (3 * 64 + 3), 4 * (3 * 64 + 3))
    assert probe.weights == whole.weights
    assert probe.activations < whole.activations / 4


class Batches:
    """Steps of a classifier without a trainer."""

    def __init__(self, name, monkeypatch, **settings):
        monkeypatch.setattr(ImageClassifier, "current_epoch", 0)
        monkeypatch.setattr(ImageClassifier, "global_rank", 0)
        torch.manual_seed(0)
        net = create_model(name, num_classes=3)
        with torch.no_grad():
            for norm in net.modules():
                if isinstance(norm, nn.BatchNorm2d):
                    norm.running_mean.uniform_(-1, 1)
        self.classifier = ImageClassifier(
            net,
            SGD,
            Constant(),
            mean=[0.5] * 3,
            std=[0.25] * 3,
            num_classes=3,
            finetuning=Finetuning(**settings),
        )
        self.optimizer = self.classifier.make_optimizer()

    def changed(self, epoch, side=16, **knobs):
        """The entries of the net that a step of `epoch` changes."""
        self.classifier.enter(Stage(0, 0, 4, side, knobs), epoch)
        before = {name: value.clone() for name, value in self.classifier.net.state_dict().items()}
        images = torch.randint(0, 256, (6, 3, side, side), dtype=torch.uint8)
        labels = torch.arange(6) % 3
        self.optimizer.zero_grad()
        self.classifier.training_step(Batch(images, labels, labels), 0).backward()
        self.classifier.on_before_optimizer_step(self.optimizer)
        self.optimizer.step()
        after = self.classifier.net.state_dict()
        return {name for name, value in before.items() if not torch.equal(value, after[name])}


def kinds(names):
    return {name.rpartition(".")[2] for name in names if "num_batches" not in name}


def test_frozen_statistics_stay_and_others_move(monkeypatch):
    everything = set(create_model("resnet20").state_dict())
    norms = {f"{name}.{kind}" for name, layer in create_model("resnet20").named_modules()
             for kind in ("weight", "bias") if isinstance(layer, nn.BatchNorm2d)}  # fmt: skip
    assert Batches("resnet20", monkeypatch, method="all").changed(0) == everything
    frozen = Batches("resnet20", monkeypatch, method="all", freeze_bn=True).changed(0)
    assert kinds(everything - frozen) == {"running_mean", "running_var"}
    assert kinds(frozen) == {"weight", "bias"}
    affine = Batches("resnet20", monkeypatch, method="all", freeze_affine=True).changed(0)
    assert everything - affine == norms
    both = Batches("resnet20", monkeypatch, method="all", freeze_affine=True, freeze_bn=True).changed(0)
    assert kinds(both) == {"weight", "bias"}
    assert not both & norms


def test_the_head_first_and_all_layers_from_their_epoch_on(monkeypatch):
    batches = Batches("resnet20", monkeypatch, method="all", head_epochs=2)
    head = {"head.weight", "head.bias"}
    assert [batches.changed(epoch) for epoch in (0, 1)] == [head, head]
    assert batches.changed(2) == set(create_model("resnet20").state_dict())
    batches.classifier.eval()
    batches.classifier.train()  # as a validation leaves it
    assert all(module.training for module in batches.classifier.net.modules())


def test_a_probe_leaves_all_but_the_head_and_keeps_its_dropout(monkeypatch):
    batches = Batches("efficientnet_b0", monkeypatch, method="head")
    assert batches.changed(1, side=32, dropout=0.5, drop_path=0.5) == {"head.weight", "head.bias"}
    training = [name for name, module in batches.classifier.net.named_modules() if module.training]
    assert training == ["dropout"]
    assert all(not each.requires_grad for each in batches.classifier.net.stem.parameters())


def test_auxiliary_heads_run_on_in_the_epochs_of_the_head(monkeypatch):
    """Every step has the same graph, which DDP and torch.compile count on; no head is fresh at the end."""
    batches = Batches("googlenet", monkeypatch, method="all", head_epochs=1)
    auxiliary = {f"auxiliary.{name}" for name, _ in batches.classifier.net.auxiliary.named_parameters()}
    assert batches.changed(0, side=96) == {"head.1.weight", "head.1.bias", *auxiliary}
    assert "stem.0.0.weight" in batches.changed(1, side=96)


def test_what_is_measured_are_steps_that_train_all_layers(configuration, tmp_path, monkeypatch):
    """A plan's, a benchmark's and a trial's, though the training begins with its head."""
    path, seen = tmp_path / "weights.pth", []
    torch.save(create_model("resnet20", num_classes=4, width=4).state_dict(), path)
    small = (*START, "finetuning=head_first", f"weights={path}", "trainer.max_epochs=8", "bn_refresh=0",
             "trainer.log_every_n_steps=1")  # fmt: skip
    hold = Finetuning.hold
    monkeypatch.setattr(
        Finetuning, "hold", lambda self, net, epoch: (hold(self, net, epoch), seen.append(net.stem.training))
    )
    config = configuration(*small)
    experiment = prepare(config)
    settings = trainer_settings(config.trainer)
    probe(settings, [], lambda _: [], experiment.classifier, experiment.data, experiment.curriculum)
    assert set(seen) == {True}
    seen.clear()
    measure(config, prepare(config), 1)
    assert set(seen) == {True}
    seen.clear()
    classifier = prepare(config).classifier
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, barebones=True)
    assert step_passes(trainer, classifier, Stage(0, 0, 8, 16, {}), 4, 3, held=1)
    assert seen[-1]


def test_no_statistics_are_taken_anew_in_the_epochs_of_the_head(monkeypatch):
    classifier = Batches("resnet20", monkeypatch, method="all", head_epochs=2).classifier
    taken = []
    monkeypatch.setattr(batch_norm, "refresh", lambda *_: taken.append(trainer.current_epoch) or 0)
    data = SimpleNamespace(
        curriculum=SimpleNamespace(evaluation_resolution=32), training_as_evaluated=lambda *_: []
    )
    refresh = StatisticsRefresh(data, {}, 1, "always", 1)
    trainer = SimpleNamespace(
        sanity_checking=False,
        world_size=1,
        precision_plugin=SimpleNamespace(val_step_context=nullcontext),
    )
    for trainer.current_epoch in (0, 1, 2):
        refresh.on_validation_batch_start(trainer, classifier, None, 0)
    assert taken == [2]


def validated(config):
    """As train.py does it."""
    validate(config)
    return prepare(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["finetuning=all_layers"], "finetuning starts from weights: add weights="),
        (["finetuning.layer_decay=0.5"], r"finetuning\.layer_decay=0\.5.*method=none.*all_layers"),
        (["finetuning.head=fresh"], r"finetuning\.head=fresh.*method=none.*all_layers"),
        (
            ["finetuning=all_layers", "model=lenet5_modern", "finetuning.freeze_bn=true", "weights={lenet}"],
            r"finetuning\.freeze_bn=true: lenet5_modern has no batch norm",
        ),
        (["finetuning=linear_probe", "finetuning.layer_decay=0.5"], "the head and nothing in front of it"),
        (["finetuning=layer_decay", "finetuning.layer_decay=1.5"], "should be less than or equal to 1"),
        (["finetuning=layer_decay", "finetuning.layer_decay=0"], "should be greater than 0"),
        (["finetuning=linear_probe", "bn_refresh=5"], "bn_refresh=5 takes the statistics.*linear_probe"),
        (["finetuning=all_layers", "finetuning.freeze_bn=true", "bn_refresh=5"], "freeze_bn=true keeps"),
        (["finetuning=linear_probe", "curriculum=fixres"], r"curriculum\.fixres=0\.1 ends with training"),
        (
            ["finetuning=head_first", "trainer.max_epochs=5"],
            "head_epochs=5 leaves none of trainer.max_epochs=5",
        ),
        (["finetuning=all_layers", "model=lenet5_modern"], "resnet20.pth does not fit lenet5_modern"),
        (["finetuning=all_layers", "finetuning.head=keep"], "has another number of classes"),
        (["finetuning=all_layers", "weights=absent.pth"], "there is no such file"),
    ],
)
def test_what_cannot_be_is_refused_by_name(overrides, message, configuration, tmp_path):
    path = tmp_path / "resnet20.pth"
    torch.save(create_model("resnet20", num_classes=3, in_channels=1).state_dict(), path)
    lenet = tmp_path / "lenet.pth"
    torch.save(create_model("lenet5_modern", num_classes=3, in_channels=1).state_dict(), lenet)
    overrides = [each.format(lenet=lenet) for each in overrides]
    without = any(word in message for word in ("starts from", "method=none"))
    config = configuration(*([] if without else [f"weights={path}"]), *overrides)
    with pytest.raises(UserError, match=message):
        validated(config)


def test_a_knob_that_a_probe_never_runs_is_no_knob_that_the_net_lacks(configuration, tmp_path):
    path = tmp_path / "b0.pth"
    small = ("model=efficientnet_b0", "model.width=0.25", "model.depth=0.2", "curriculum.resolution.start=32")
    net = create_model("efficientnet_b0", num_classes=3, width=0.25, depth=0.2)
    torch.save(net.state_dict(), path)
    typed = [*small, "data.in_channels=3", "data.mean=[0.5,0.5,0.5]", "data.std=[0.5,0.5,0.5]",
             f"weights={path}", "finetuning=linear_probe", "regularization.drop_path=0.2"]  # fmt: skip
    config = configuration(*typed)
    with pytest.raises(UserError, match="efficientnet_b0 has no drop path in what is trained"):
        prepare(config, typed)


@pytest.mark.parametrize(("size", "mean"), [("S", [0.485, 0.456, 0.406]), ("L", [0.5, 0.5, 0.5])])
def test_images_are_normalised_as_the_weights_were_also_where_all_is_trained_alike(size, mean, configuration):
    typed = [f"weights=EfficientNet_V2_{size}_Weights.IMAGENET1K_V1"]
    config = configuration("experiment=efficientnetv2_s_cifar10", *typed)
    assert config.finetuning.method == "none"
    follow_weights(config, typed)
    assert list(config.data.mean) == mean


def test_a_run_of_a_scaled_net_says_the_scaling(configuration, tmp_path):
    scaled = ("scaling=compound", "scaling.phi=2")
    OmegaConf.save(configuration(*START, *scaled), tmp_path / "config.yaml", resolve=True)
    typed = [*START, "bn_refresh=0", "finetuning=all_layers", f"weights={tmp_path}"]
    message = (
        r"add scaling=compound scaling\.phi=2 scaling\.alpha=1\.2 scaling\.beta=1\.1 scaling\.gamma=1\.15"
    )
    with pytest.raises(UserError, match=message):
        follow_weights(configuration(*typed), typed)
    follow_weights(configuration(*typed, *scaled), [*typed, *scaled])
