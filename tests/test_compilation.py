"""What torch.compile is asked for, counted by dynamo; its backend is left out, which would take minutes."""

import copy

import lightning as L
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from crescendo.compilation import CompileClock, compile_net
from crescendo.curriculum.callback import CurriculumCallback
from crescendo.experiment import prepare
from crescendo.models.layers import set_drop_path, set_dropout

NET = ("model=efficientnet_b0", "model.width=0.25", "model.depth=0.34")


@pytest.fixture(autouse=True)
def _no_backend(monkeypatch):
    real = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda net, **settings: real(net, backend="eager", **settings))
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def graphs():
    return counters["stats"]["unique_graphs"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_four_stages_are_four_graphs_whatever_rises(configuration, tmp_path):
    config = configuration(
        *NET,
        "data=synthetic",
        "data.source.samples=100",
        "data.batch_size=32",
        "curriculum.stages=4",
        "curriculum.resolution={start:32,end:56}",
        "trainer.max_epochs=8",
        "regularization.dropout={start:0,end:0.3}",
        "regularization.drop_path={start:0,end:0.2}",
        "regularization.mixup={start:0,end:0.2}",
        "regularization.random_erasing={start:0,end:0.2}",
    )
    experiment = prepare(config)
    classifier = experiment.classifier
    assert [stage.resolution for stage in experiment.plan.stages] == [32, 40, 48, 56]
    names = set(classifier.state_dict())
    compile_net(classifier.net, stages=4)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=8,
        callbacks=[CurriculumCallback(experiment.curriculum)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(classifier, experiment.data)  # validates, too
    assert trainer.global_step == 16
    assert graphs() == 4
    assert set(classifier.state_dict()) == names


def test_a_changed_rate_compiles_nothing_and_copies_are_whole():
    from crescendo.models import create_model

    net = create_model("efficientnet_b0", 10, 3, width=0.25, depth=0.34)
    compile_net(net, stages=1)
    x = torch.randn(2, 3, 32, 32)
    for rate in (0.1, 0.2, 0.3):
        set_dropout(net, rate)
        set_drop_path(net, rate)
        net(x)
    assert graphs() == 1
    twin = copy.deepcopy(net).eval()
    torch.testing.assert_close(twin(x), net.eval()(x))


def test_more_stages_than_dynamos_limit_are_all_compiled():
    net = nn.Sequential(nn.Conv2d(1, 1, 1))
    compile_net(net, stages=12)
    for side in range(4, 16):
        net(torch.randn(2, 1, side, side))
    assert graphs() == 12


def test_the_clock_runs_while_a_graph_is_made():
    clock = CompileClock()
    clock.watch()
    net = nn.Sequential(nn.Conv2d(1, 1, 1))
    compile_net(net, stages=1)
    assert clock.take() == 0
    net(torch.randn(2, 1, 4, 4))
    assert clock.take() > 0
    net(torch.randn(2, 1, 4, 4))
    assert clock.take() == 0
