"""Train an image classifier.

python train.py                                           digits, ResNet-20, three stages
python train.py model=lenet5 curriculum=constant          other options of the groups
python train.py data=folder data.root=photos plan=true    what would be trained
python train.py --help                                    every group and setting
"""

import os
from contextlib import nullcontext

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

import crescendo.resolvers  # noqa: F401  # what conf/ interpolates; light, as all that is imported here
from crescendo.errors import plain_errors


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> None:
    # One job's mistake must not end a sweep: Hydra notes it, goes on, and raises it in the end.
    with nullcontext() if HydraConfig.get().mode == RunMode.MULTIRUN else plain_errors():
        from crescendo.config import validate

        validate(config)  # a bad value stops here, before torch and Lightning are imported

        from crescendo.training import run

        run(config)


if __name__ == "__main__":
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors, plain_errors words them
    with plain_errors():
        main()
