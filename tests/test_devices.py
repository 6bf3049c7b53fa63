"""One device or many: the same command, the same training."""

import csv
import json
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from commands import REPOSITORY, TINY, command, only_run, train
from omegaconf import OmegaConf
from whole_runs import TRAINING

from crescendo.answers import read_answers
from crescendo.devices import precision_of, trainer_settings

# A net without batch statistics, nothing drawn on a device; 163 training and 45 test images.
EXACT = (
    *TINY,
    "regularization=none",
    "data.source.samples=181",
    "trainer.max_epochs=4",
    "trainer.log_every_n_steps=1",
    "logger=csv",
)
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone")


@pytest.mark.parametrize(
    ("accelerator", "computes_in_bfloat16", "precision"),
    [
        ("auto", True, "bf16-mixed"),
        ("gpu", True, "bf16-mixed"),
        ("gpu", False, "32-true"),
        ("cpu", True, "32-true"),
    ],
)
def test_a_gpu_computes_in_bfloat16_unless_something_else_is_said(
    accelerator, computes_in_bfloat16, precision, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: computes_in_bfloat16)
    trainer = OmegaConf.create({"accelerator": accelerator, "precision": None})
    assert precision_of(trainer) == precision
    trainer.precision = "16-mixed"
    assert precision_of(trainer) == "16-mixed"


@pytest.mark.parametrize("deterministic", [True, False, "warn"])
def test_deterministic_is_said_in_one_place(deterministic, configuration):
    settings = trainer_settings(configuration(f"deterministic={deterministic}").trainer)
    assert settings.deterministic == deterministic
    assert settings.benchmark == (deterministic is False)


def losses(run):
    with (run / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


@pytest.mark.parametrize("parts", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_processes_train_as_one_does(tmp_path, uninterrupted, parts):
    overrides = (*EXACT, f"trainer.accumulate_grad_batches={parts}")
    one, two = uninterrupted(*overrides), uninterrupted(*overrides, "trainer.devices=2")
    assert len(losses(one)) == 20
    assert losses(two) == pytest.approx(losses(one), rel=1e-5, abs=1e-5)
    metrics = [json.loads((run / "summary.json").read_text())["metrics"] for run in (one, two)]
    for name in ("test/accuracy", "test/accuracy_top5", "val/accuracy"):
        assert metrics[0][name] == metrics[1][name]
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-4)
    matrices = [(run / "confusion_matrix.csv").read_text() for run in (one, two)]
    assert matrices[0] == matrices[1]
    counts = [int(cell) for row in csv.reader(matrices[1].splitlines()[1:]) for cell in row[1:]]
    assert sum(counts) == 45
    mine, other = (read_answers(run) for run in (one, two))
    assert mine.indices.tolist() == other.indices.tolist() == list(range(45))
    assert mine.answers.tolist() == other.answers.tolist()
    assert mine.probabilities == pytest.approx(other.probabilities, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_an_epoch_draws_each_image_at_most_once_also_when_it_is_resumed(tmp_path, ranks):
    overrides = (*TRAINING, "data.source.samples=181", f"trainer.devices={ranks}")
    launch = TORCHRUN if ranks > 1 else ()
    script = str(REPOSITORY / "tests" / "draws.py")
    stopped = command(*launch, script, *overrides, "trainer.max_steps=7", cwd=tmp_path)
    assert stopped.returncode == 0, stopped.stderr
    run = only_run(tmp_path)
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"status": "interrupted"}))
    going_on = ("trainer.max_steps=-1", "resume_override=true")
    resumed = command(*launch, script, f"resume={run}", *going_on, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    steps = [json.loads(line) for line in (tmp_path / "draws.jsonl").read_text().splitlines()]
    for epoch in range(4):
        mine = [step for step in steps if step["epoch"] == epoch]
        assert sorted((step["batch"], step["rank"]) for step in mine) == [
            (batch, rank) for batch in range(5) for rank in range(ranks)
        ]
        drawn = [index for step in mine for index in step["indices"]]
        assert len(drawn) == len(set(drawn)) == 160
        assert set(drawn) <= set(range(163))


STAGES = (
    "model=efficientnet_b0",
    "model.width=0.25",
    "model.depth=0.5",
    "curriculum.resolution.start=32",
    "curriculum.resolution.end=48",
    "regularization.dropout={start:0.1,end:0.3}",
    "regularization.drop_path={start:0,end:0.2}",
    "regularization.randaugment={start:5,end:15}",
    "regularization.mixup={start:0,end:0.2}",
    "regularization.cutmix={start:0,end:0.5}",
)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [7, 10])
def test_two_processes_with_workers_see_the_plan_also_when_they_are_resumed(tmp_path, steps):
    """Stopped inside the second of four epochs, and at its end; two curriculum stages."""
    overrides = (*TRAINING, "data.source.samples=181", *STAGES, "data.num_workers=2", "trainer.devices=2")
    script = str(REPOSITORY / "tests" / "draws.py")
    stopped = command(*TORCHRUN, script, *overrides, f"trainer.max_steps={steps}", cwd=tmp_path)
    assert stopped.returncode == 0, stopped.stderr
    run = only_run(tmp_path)
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"status": "interrupted"}))
    going_on = ("trainer.max_steps=-1", "resume_override=true")
    resumed = command(*TORCHRUN, script, f"resume={run}", *going_on, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    lines = [json.loads(line) for line in (tmp_path / "draws.jsonl").read_text().splitlines()]
    assert len(lines) == 4 * 5 * 2
    for line in lines:
        expected = [32, 0.1, 0, 5, 0, 0] if line["epoch"] < 2 else [48, 0.3, 0.2, 15, 0.2, 0.5]
        assert line["stage"] == pytest.approx(expected, abs=1e-6), line


def test_synchronised_batch_norm_is_refused_on_a_cpu(tmp_path):
    refused = train(*TINY, "trainer.sync_batchnorm=true", cwd=tmp_path)
    assert refused.returncode == 2
    assert "SyncBatchNorm has no CPU path" in refused.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_senet154_on_four_processes(tmp_path):
    overrides = (
        "model=senet154",
        "trainer.devices=4",
        "trainer.accelerator=cpu",
        "trainer.max_steps=2",
        "data.batch_size=8",
    )
    result = train(*overrides, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    run = only_run(tmp_path)
    assert list(run.parent.iterdir()) == [run]
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "srun"])
def test_two_nodes_share_a_directory(tmp_path, launcher):
    """Two nodes on one machine: what each of them starts, and the environment that it gives."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    training = (*TINY, "logger=csv", "trainer.num_nodes=2", "trainer.devices=1")
    agent = ("-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d")
    agent += (f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=1")
    cluster = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_JOB_NAME": "training", "SLURM_LOCALID": "0"}
    cluster |= {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "2"}
    cluster |= {"SLURM_NODELIST": "localhost", "MASTER_PORT": str(port)}

    def start(node):
        script = (str(REPOSITORY / "train.py"), *training)
        if launcher == "torchrun":
            return command(*agent, *script, cwd=tmp_path)
        return command(*script, cwd=tmp_path, **cluster, SLURM_PROCID=str(node), SLURM_NODEID=str(node))

    with ThreadPoolExecutor(2) as pool:
        for ended in pool.map(start, range(2)):
            assert ended.returncode == 0, ended.stderr
    run = only_run(tmp_path)
    assert list(run.parent.iterdir()) == [run]
    with (run / "confusion_matrix.csv").open() as file:
        rows = list(csv.reader(file))[1:]
    assert sum(int(cell) for row in rows for cell in row[1:]) == 40  # each test image once, over both
