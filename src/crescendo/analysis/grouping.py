"""Which runs are the same experiment, and what tells the others apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from crescendo.resume import FREE
from crescendo.runs import read_config, read_overrides

# What two runs may differ in and still be the same experiment.
INCIDENTAL = ("seed", *FREE)


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seeds.

    Attributes:
        differences: what tells the groups apart, with this group's values: their arms, else what was typed,
            else the settings that differ.
        changed: all settings that differ between the groups, with this group's values.
        settings: all of its settings by dotted name, without the incidental ones.
    """

    directories: Sequence[Path]
    differences: Mapping[str, Any]
    changed: Mapping[str, Any]
    settings: Mapping[str, Any]


def group_runs(directories: Sequence[Path]) -> list[Group]:
    """The groups in the order of their first runs.

    An arm stands for all that it sets: where each group has an arm of its own, that alone is named.
    """
    groups: dict[str, list[Path]] = {}
    settings: dict[str, dict[str, Any]] = {}
    for directory in directories:
        flat = flat_settings(OmegaConf.to_container(read_config(directory)))
        if flat.get("budget") is not None:  # its length was fitted, on this machine and for this seed
            del flat["trainer.max_epochs"]
        key = repr(sorted(flat.items()))
        settings[key] = flat
        groups.setdefault(key, []).append(directory)
    differing = differing_settings(list(settings.values()))
    changed = [{name: settings[key].get(name) for name in differing} for key in groups]
    names = _arms(list(settings.values())) or _typed(list(groups.values())) or changed
    parts = zip(groups.items(), names, changed, strict=True)
    return [Group(runs, mine, own, settings[key]) for (key, runs), mine, own in parts]


def flat_settings(node: Any, prefix: str = "") -> dict[str, Any]:
    """Settings by dotted name, without the incidental ones."""
    if not isinstance(node, dict) or not node:
        return {prefix: node}
    flat: dict[str, Any] = {}
    for name, value in node.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        if not _is_incidental(key):
            flat |= flat_settings(value, key)
    return flat


def _is_incidental(key: str) -> bool:
    return any(key == other or key.startswith(other + ".") for other in INCIDENTAL)


def differing_settings(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    names = dict.fromkeys(name for flat in settings for name in flat)
    return [name for name in names if len({repr(flat.get(name, "absent")) for flat in settings}) > 1]


def _arms(settings: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]] | None:
    """An arm stands for all that it sets: the arm of each group, where each has one of its own."""
    arms = [flat.get("arm") for flat in settings]
    if len(arms) < 2 or None in arms or len(set(arms)) < len(arms):
        return None
    return [{"arm": arm} for arm in arms]


def _typed(groups: Sequence[Sequence[Path]]) -> list[dict[str, Any]] | None:
    """What was typed for each group and not for all, where that alone tells them apart.

    A group's option, such as curriculum=progressive, sets many values: its name is shorter.
    """
    typed = [
        [dict(override.partition("=")[::2] for override in read_overrides(run)) for run in runs]
        for runs in groups
    ]
    own = [
        {key for overrides in group for key in overrides if len({own.get(key) for own in group}) > 1}
        for group in typed
    ]
    firsts = [group[0] for group in typed]
    varying = {key for keys in own for key in keys}
    names = [name for name in differing_settings(firsts) if name not in varying and not _is_incidental(name)]
    found = [{name: group.get(name) for name in names} for group in firsts]
    unique = {repr(values) for values in found}
    return found if names and len(unique) == len(groups) else None
