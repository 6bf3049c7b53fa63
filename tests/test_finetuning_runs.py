"""Fine-tuning from the command line: from a run, on other classes, killed and resumed, on two devices."""

import csv
import shutil

import pytest
import torch
from commands import crescendo, only_run, train
from omegaconf import OmegaConf
from test_finetuning import START
from test_resume import killed
from whole_runs import assert_same_end

from crescendo.config import validate
from crescendo.errors import UserError
from crescendo.planning import plan_training

FINETUNE = (
    "experiment=finetune",
    "data.batch_size=8",
    "data.num_workers=0",
    "data.native_size=24",
    "model=resnet20",
    "model.width=4",
    "trainer=cpu",
    "trainer.max_epochs=3",
    "logger=csv",
)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A run of other classes, whose checkpoint holds averages and refreshed statistics."""
    place = tmp_path_factory.mktemp("start")
    result = train(*START, cwd=place)
    assert result.returncode == 0, result.stderr
    return only_run(place)


def net_of(run, checkpoint="best"):
    state = torch.load(run / "checkpoints" / f"{checkpoint}.ckpt", weights_only=True)["state_dict"]
    return {name: value for name, value in state.items() if name.startswith("net.")}


def test_a_probe_of_a_run_on_a_folder_of_other_classes(start, image_folder, tmp_path):
    place = tmp_path / "probe"
    place.mkdir()
    given = (
        *FINETUNE,
        f"data.root={image_folder}",
        f"weights={start}",
        "finetuning=linear_probe",
        "callbacks=ema_warmed",
    )
    result = train(*given, cwd=place)
    assert result.returncode == 0, result.stderr
    told = " ".join(result.stdout.split())
    assert "head.weight, head.bias stay fresh, for other classes" in told
    assert "fine-tuned: 51 of 17,207 parameters" in told  # 16 x 3 weights and 3 biases
    run = only_run(place)
    config = OmegaConf.load(run / "config.yaml")
    assert config.data.mean == [0.5, 0.5, 0.5]  # as the run has them: not the folder's
    assert config.weights == str(start)
    old, new = net_of(start), net_of(run)
    differing = {name for name in old if not torch.equal(old[name], new[name])}
    assert differing == {"net.head.weight", "net.head.bias"}
    assert crescendo("evaluate", str(run), cwd=tmp_path).returncode == 0
    with (run / "metrics.csv").open() as file:
        rates = [float(row["lr"]) for row in csv.DictReader(file) if row["lr"]]
    assert 0.05 < max(rates) <= 0.1  # the head's: ten times optimizer.lr


def test_a_run_killed_in_the_epochs_of_the_head_goes_on_and_then_trains_all(start, image_folder, tmp_path):
    """Three steps an epoch, of which the first is the head's; killed after two, and its weights are gone."""
    weights = shutil.copytree(start, tmp_path / "weights")
    given = (
        *FINETUNE,
        f"data.root={image_folder}",
        f"weights=../{weights.name}",  # the run has it absolute
        "finetuning=head_first",
        "finetuning.head_epochs=1",
        "finetuning.layer_decay=0.5",
        "curriculum=to_native",
        "callbacks.checkpoint.every_n_steps=1",
    )
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
    run = killed(2, *given, cwd=tmp_path / "killed")
    old, inside = net_of(start), net_of(run, "last")
    same = {name for name in old if "head" not in name and torch.equal(old[name], inside[name])}
    assert same == {name for name in old if "head" not in name}
    whole = train(*given, cwd=tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    shutil.rmtree(weights)
    resumed = train("resume=auto", *given, cwd=tmp_path / "killed")
    assert resumed.returncode == 0, resumed.stderr
    assert "from here on all layers are" in " ".join(resumed.stdout.split())
    end = net_of(run, "last")
    learnt = [name for name in old if name.endswith(("weight", "running_mean"))]
    assert not any(torch.equal(old[name], end[name]) for name in learnt)
    assert_same_end(run, only_run(tmp_path / "whole"))


def test_the_head_of_a_run_with_the_same_classes_is_kept_and_its_net_and_channels_must_be_ours(
    start, configuration, caplog
):
    overrides = [*START, f"weights={start}", "finetuning=all_layers", "seed=5", "data.mean=[0.4,0.4,0.4]",
                 "bn_refresh=0"]  # fmt: skip
    config = configuration(*overrides)
    validate(config)
    with caplog.at_level("INFO", "crescendo"):
        kept = plan_training(config, overrides).experiment.classifier.net
    assert torch.equal(kept.head.weight, net_of(start)["net.head.weight"])
    assert "it keeps its head" in caplog.text
    assert list(config.data.mean) == [0.4, 0.4, 0.4]  # typed
    for extra, message in (
        (["finetuning.head=fresh"], None),
        (["data.class_names=[a,b,c,d]"], None),
        (["model.width=8"], r"is a run of another resnet20: add model\.width=4"),
        (["model=resnet56"], "is a run of resnet20, and the net is resnet56: add model=resnet20"),
        (
            ["data.in_channels=1", "data.mean=[0.5]", "data.std=[0.25]"],
            r"add data\.in_channels=3 data\.mean=\[0\.5,0\.5,0\.5\] data\.std=\[0\.25,0\.25,0\.25\]",
        ),
    ):
        changed = [each for each in overrides if "mean" not in each] + extra
        config = configuration(*changed)
        if message is None:
            net = plan_training(config, changed).experiment.classifier.net
            assert not torch.equal(net.head.weight, kept.head.weight)
            assert torch.equal(net.stem[0].weight, kept.stem[0].weight)
        else:
            with pytest.raises(UserError, match=message):
                plan_training(config, changed)


@pytest.mark.slow
@pytest.mark.parametrize("finetuning", ["linear_probe", "head_first"])
def test_two_processes_train_what_one_would(finetuning, start, image_folder, tmp_path):
    """DDP misses no gradient, neither of what is frozen throughout nor of what is in the first epochs."""
    given = (*FINETUNE, f"data.root={image_folder}", f"weights={start}", f"finetuning={finetuning}")
    given += ("finetuning.head_epochs=1",) if finetuning == "head_first" else ()
    result = train(*given, "trainer.devices=2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (run,) = tmp_path.rglob("summary.json")
    old, new = net_of(start), net_of(run.parent, "last")
    stays = finetuning == "linear_probe"
    assert torch.equal(old["net.stem.0.weight"], new["net.stem.0.weight"]) == stays
