"""Train an image classifier.

python train.py                                           digits, ResNet-20, three stages
python train.py model=lenet5 curriculum=constant          other options of the groups
python train.py data=folder data.root=photos plan=true    what would be trained
python train.py --help                                    every group and setting
"""

import os

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

import crescendo.resolvers  # noqa: F401  # what conf/ interpolates; light, as all that is imported here
from crescendo.errors import plain_errors


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> None:
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        from crescendo.sweeps.jobs import run_job

        run_job(os.path.abspath(__file__))  # a process for each job: DDP and W&B start afresh
        return
    with plain_errors():
        from crescendo.config import validate

        validate(config)  # a bad value stops here, before torch and Lightning are imported

        from crescendo.training import run

        run(config)


if __name__ == "__main__":
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors, plain_errors words them
    with plain_errors():
        main()
