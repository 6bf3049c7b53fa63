"""Runs that are held against each other: one that was interrupted against one that was not."""

import csv
import json

import torch
from commands import TINY

from crescendo.metrics_file import MEASURED

# Four epochs of four steps in two stages, with everything that a checkpoint has to carry.
TRAINING = (
    *TINY,
    "logger=csv",
    "callbacks=ema",
    "callbacks.checkpoint.every_n_steps=1",
    "trainer.max_epochs=4",
    "regularization.mixup=0.2",
)


def rows(run):
    with (run / "metrics.csv").open() as file:
        return [
            {key: value for key, value in row.items() if key not in MEASURED} for row in csv.DictReader(file)
        ]


def assert_same_end(ours, theirs):
    """Weights, averages, optimizer, metrics and metrics.csv, bit by bit."""
    for name in ("last.ckpt", "best.ckpt"):
        checkpoints = [torch.load(run / "checkpoints" / name, weights_only=True) for run in (ours, theirs)]
        for part in (
            "state_dict",
            "current_model_state",
            "averaging_state",
            "optimizer_states",
            "lr_schedulers",
            "validation",
            "train_sums",
            "global_step",
            "epoch",
            "metrics_rows",
        ):
            mine, other = (checkpoint.get(part) for checkpoint in checkpoints)
            torch.testing.assert_close(mine, other, rtol=0, atol=0, msg=f"{name}: {part}")
    mine, other = rows(ours), rows(theirs)
    assert mine == other, (
        f"metrics.csv: {[pair for pair in zip(mine, other, strict=False) if pair[0] != pair[1]]}"
    )
    summaries = [json.loads((run / "summary.json").read_text()) for run in (ours, theirs)]
    for key in ("status", "metrics", "best_epoch", "train_macs"):
        assert summaries[0][key] == summaries[1][key], f"{key}: {summaries[0][key]}, not {summaries[1][key]}"
    partial = list(ours.rglob(".*.partial"))
    assert not partial, f"left behind: {partial}"
