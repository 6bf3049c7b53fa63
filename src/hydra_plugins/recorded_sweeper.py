"""The sweeper of `python train.py -m`: Hydra's own grid, with every job on record before the first starts.

Hydra takes plugins from this package alone, and imports it at every start: keep it light. What a sweep is on
disk is in crescendo.sweeps.
"""

from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class RecordedSweeper(BasicSweeper):
    """Runs every combination of the swept values through the chosen launcher.

    Args:
        params: values to sweep as in `key: 1,2,3`, the sweep group's; what is typed takes their place.
        resume: the sweep directory has a sweep.yaml already: run its jobs that are not finished.
    """

    def __init__(self, params: dict[str, str] | None, resume: bool) -> None:
        super().__init__(max_batch_size=None, params=params)
        self.resume = resume

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        # One directory for all jobs, also where a launcher composes them in other processes, at other times.
        config.hydra.sweep.dir = str(Path(config.hydra.sweep.dir).expanduser().absolute())
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        from crescendo.sweeps import Sweep, quoted, refuse_many_processes

        assert self.config is not None
        assert self.hydra_context is not None
        refuse_many_processes()
        directory = Path(self.config.hydra.sweep.dir)
        if self.resume:
            sweep = Sweep.read(directory)
        else:
            parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
            overrides = parser.parse_overrides([*self._parse_config(), *arguments])
            (jobs,) = self.split_arguments(overrides, None)
            self.validate_batch_is_legal(jobs)  # a misspelt option of any job stops here
            sweep = Sweep.record(directory, jobs)
        numbers = sweep.to_run()
        batch = [
            [*sweep.jobs[number], f"hydra.sweep.dir={quoted(directory)}", f"hydra.sweep.subdir={number}"]
            for number in numbers
        ]
        with sweep.reporting():
            return [self.launcher.launch(batch, initial_job_idx=0)] if self.launcher and batch else []
