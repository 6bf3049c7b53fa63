"""What a run says of itself in W&B: its configuration in fields to group by, its name, its sweep."""

import os
import re
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from crescendo.runs import EARLIER_ATTEMPT, Run

SECRET_NAMES = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)$", re.IGNORECASE)
SHORTEST_SECRET = 8  # characters; a shorter one would be found in what is none
FACTS = ("git_revision", "parameters", "macs", "not_applied", "packages", "machine")


def describe(run: Run, config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a run's W&B run.

    A group is its option's name (model: resnet20), a setting outside of the groups is itself (seed: 0);
    `settings` is the resolved configuration, as config.yaml has it.
    """
    plain = {name: value for name, value in config.items() if not isinstance(value, Mapping)}
    facts = {name: run.summary[name] for name in FACTS if name in run.summary}
    everything = {**plain, **run.choices, **facts, "run_directory": str(run.directory), "settings": config}
    return without_secrets(everything)


def sweep_of(directory: Path) -> str | None:
    """The id of the sweep that a run is a job of: its directory's name."""
    return directory.parent.name if (directory.parent / "sweep.yaml").is_file() else None


def name_of(directory: Path) -> str:
    """A run's directory; a sweep's job with its sweep."""
    sweep = sweep_of(directory)
    return directory.name if sweep is None else f"{sweep}/{directory.name}"


def id_of(directory: Path) -> str:
    """The same for a run and its resumption, another for each attempt of a sweep's job; short and plain."""
    beside = directory.parent.iterdir() if sweep_of(directory) else ()
    earlier = [path for path in beside if path.stem == directory.name and EARLIER_ATTEMPT.match(path.name)]
    attempt = [str(len(earlier))] if earlier else []
    return blake2b("/".join([*directory.parts[-2:], *attempt]).encode(), digest_size=8).hexdigest()


def without_secrets(value: Any) -> Any:
    """A plain value without the values of environment variables that are named like secrets."""
    secrets = [
        given
        for name, given in os.environ.items()
        if SECRET_NAMES.search(name) and len(given) >= SHORTEST_SECRET
    ]
    longest_first = sorted(secrets, key=len, reverse=True)  # one may begin as another does
    return _masked(value, longest_first) if secrets else value


def _masked(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _masked(inner, secrets) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(inner, secrets) for inner in value]
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "***")
    return value
