"""What a yaml of conf/ may interpolate beside other settings. Imported by train.py itself: keep it light.

${choice:model}                 the option chosen for a group, in a job as in a sweep; a/b as a_b
${class_directories:<root>}     how many classes a tree of class directories has
${packed_classes:<root>}        how many classes a pack has
${fewest_epochs:<stages>,<fixres>,<head>}   the epochs that a training takes at least
${per_256:<rate>,<batch>}       a learning rate that is given for 256 images, for a global batch
${short_id:}                    four hexadecimal digits
"""

import secrets

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf


def _choice(group: str, _root_: DictConfig) -> str:
    """Hydra's own `hydra:` resolver does not know the choices before a sweep's first job."""
    hydra = _root_.hydra if "hydra" in _root_ else HydraConfig.get()
    chosen = hydra.runtime.choices[group]
    return chosen.replace("/", "_") if chosen else chosen  # part of a directory's name


def _count_classes(root: str) -> int:
    from crescendo.data.folders import class_directories  # heavy, and for data=folder alone

    return len(class_directories(root))


def _count_packed_classes(root: str) -> int:
    from pathlib import Path

    from crescendo.data.packs import read_facts

    return len(read_facts(Path(root)).class_names)


def fewest_epochs(stages: int | str, fixres: float, head_epochs: int) -> int:
    """One for each stage of a curriculum, and one of all layers behind those of the head alone."""
    of_curriculum = (1 if stages == "every_epoch" else int(stages)) + (fixres > 0)
    return max(of_curriculum, head_epochs + (head_epochs > 0))


def rate_per_256(rate: float, batch_size: int) -> float:
    """Linear scaling (Goyal et al. 2017, arXiv:1706.02677, section 2.1)."""
    return float(rate) * batch_size / 256


OmegaConf.register_new_resolver("choice", _choice, replace=True)
OmegaConf.register_new_resolver("class_directories", _count_classes, replace=True)
OmegaConf.register_new_resolver("packed_classes", _count_packed_classes, replace=True)
OmegaConf.register_new_resolver("fewest_epochs", fewest_epochs, replace=True)
OmegaConf.register_new_resolver("per_256", rate_per_256, replace=True)
OmegaConf.register_new_resolver("short_id", lambda: secrets.token_hex(2), replace=True)
