"""W&B's files of a run as W&B itself reads them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def sessions(run: Path) -> list[Path]:
    """W&B's directories of a run, one for each process that trained it, in their order."""
    return sorted((run / "wandb").glob("offline-run-*"))


def records(session: Path) -> list[dict[str, Any]]:
    """All that was written: each with its type, and its content under that name."""
    return [json.loads(line) for line in _inspect(session, "--json").splitlines()]


def content(session: Path, kind: str) -> list[dict[str, Any]]:
    return [record[kind] for record in records(session) if record["type"] == kind]


def history(session: Path) -> list[dict[str, Any]]:
    """The logged rows."""
    return [row["item"] for row in content(session, "history")]


def summary(session: Path) -> dict[str, Any]:
    """What W&B shows of a run: state, config, summary."""
    return json.loads(_inspect(session, "--json", "--summary"))


def _inspect(session: Path, *options: str) -> str:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", *options, str(session)]
    environment = os.environ | {"WANDB_ERROR_REPORTING": "false"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
