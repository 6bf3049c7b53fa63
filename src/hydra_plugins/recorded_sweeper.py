"""The sweeper of `python train.py -m`: Hydra's own grid, or a study, with a record of the sweep on disk.

Hydra takes plugins from this package alone, and imports it at every start: keep it light. What a sweep is on
disk is in crescendo.sweeps.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from crescendo.errors import UserError

if TYPE_CHECKING:
    from crescendo.sweeps.record import Sweep


class RecordedSweeper(BasicSweeper):
    """Runs jobs through the chosen launcher: every combination of the swept values, or a study's trials.

    Args:
        params: values to sweep as in `key: 1,2,3`, the sweep group's; what is typed takes their place.
        study: crescendo.sweeps.record.StudySettings but for the space; None for a grid.
        coefficients: crescendo.scaling.candidates.SearchSettings: every job once for each candidate of a
            search for compound scaling's coefficients; None for none.
        at_once: trials of a study to ask for before the first of them is done; -1 for one a CPU.
        resume: the sweep directory has a sweep.yaml already: run its jobs that are not finished.
    """

    def __init__(
        self,
        params: dict[str, str] | None,
        study: DictConfig | None,
        coefficients: DictConfig | None,
        at_once: int,
        resume: bool,
    ) -> None:
        super().__init__(max_batch_size=None, params=params)
        self.study, self.coefficients, self.resume = study, coefficients, resume
        self.at_once = at_once if at_once > 0 else os.cpu_count() or 1

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        # One directory for all jobs, also where a launcher composes them in other processes, at other times.
        config.hydra.sweep.dir = str(Path(config.hydra.sweep.dir).expanduser().absolute())
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        from crescendo.sweeps.jobs import refuse_many_processes
        from crescendo.sweeps.record import Sweep

        assert self.config is not None
        refuse_many_processes()
        directory = Path(self.config.hydra.sweep.dir)
        sweep = Sweep.read(directory) if self.resume else self._record(directory, arguments)
        if sweep is None:
            return
        with sweep.reporting():
            if sweep.study is None:
                self._launch(sweep, sweep.to_run())
            else:
                self._run_trials(sweep)
            if sweep.search is not None:
                self._show_winner(sweep)

    def _record(self, directory: Path, arguments: Sequence[str]) -> "Sweep | None":
        """Write the sweep down; None where a plan was all that was asked for. A misspelt option of any job
        stops here.
        """
        from crescendo.sweeps.record import StudySettings, Sweep

        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        if self.study is None:
            (jobs,) = self.split_arguments(overrides, None)
            self.validate_batch_is_legal(jobs)
            return (
                Sweep.record(directory, jobs) if self.coefficients is None else self._search(directory, jobs)
            )
        from crescendo.sweeps.study import Study  # isort: skip  # says what is not installed
        from crescendo.sweeps.space import listed

        values: Any = OmegaConf.to_container(self.study, resolve=True)
        settings = StudySettings.checked({**values, "space": listed(overrides)})
        corners = Study(directory, settings).space.corners()
        self.validate_batch_is_legal(corners)
        if "step_seconds" in settings.costs:
            if not self._composed(corners[0]).measure_step:
                raise UserError(
                    "the study counts step_seconds, which is not measured: add measure_step=true."
                )
            if self.at_once > 1:
                print(
                    f"{self.at_once} jobs at once: on one device they slow each other's steps, and "
                    "step_seconds with them. hydra.launcher.n_jobs=1 measures the net alone.",
                    file=sys.stderr,
                )
        return Sweep.record(directory, [], settings)

    def _search(self, directory: Path, jobs: Sequence[Sequence[str]]) -> "Sweep | None":
        """Show the candidates, and record a sweep of each job with each of them."""
        from crescendo.scaling.candidates import SearchSettings

        values: Any = OmegaConf.to_container(self.coefficients, resolve=True)
        settings = SearchSettings.checked(values)
        from rich import get_console

        from crescendo.coefficient_search import search_for  # with torch: what is wrong above is told at once
        from crescendo.sweeps.candidate_tables import show_candidates
        from crescendo.sweeps.record import Sweep

        configs = [self._composed(job) for job in jobs]
        search = search_for(configs, settings)
        get_console().print(show_candidates(search))
        if configs[0].plan:
            return None
        trainings = [[*job, *each.overrides] for job in jobs for each in search.candidates]
        return Sweep.record(directory, trainings, search=search)

    def _show_winner(self, sweep: "Sweep") -> None:
        from rich import get_console

        from crescendo.sweeps.candidate_tables import show_standings
        from crescendo.sweeps.winner import Outcome

        outcome = Outcome.read(sweep)
        get_console().print(show_standings(outcome))
        if outcome.command is not None:
            print(outcome.command)  # on one line, to be pasted

    def _run_trials(self, sweep: "Sweep") -> None:
        """Those that were interrupted, then new ones until there are n_trials."""
        from crescendo.sweeps.nets import conclude
        from crescendo.sweeps.study import Study

        assert sweep.study is not None
        study = Study(sweep.directory, sweep.study)
        study.settle()
        self._launch(sweep, sweep.to_run())
        study.settle()
        while trials := study.ask(self.at_once, self._macs_of):
            self._launch(sweep, trials)
            study.settle()
        if found := conclude(sweep, study.front()):
            print(found)

    def _macs_of(self, overrides: Sequence[str]) -> int:
        """Of the net that a trial would train."""
        from crescendo.config import validate
        from crescendo.experiment import count_configured_macs  # with torch: for max_macs alone

        config = self._composed(overrides)
        validate(config)
        return count_configured_macs(config)

    def _composed(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration of a job, without Hydra's own."""
        assert self.hydra_context is not None
        assert self.config is not None
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        HydraConfig.instance().set_config(config)  # for what interpolates it
        with open_dict(config):
            del config["hydra"]
        return config

    def _launch(self, sweep: "Sweep", jobs: Mapping[int, Sequence[str]]) -> None:
        from crescendo.sweeps.jobs import quoted

        assert self.launcher is not None
        batch = [
            [*overrides, f"hydra.sweep.dir={quoted(sweep.directory)}", f"hydra.sweep.subdir={number}"]
            for number, overrides in jobs.items()
        ]
        if batch:
            self.launcher.launch(batch, initial_job_idx=0)
