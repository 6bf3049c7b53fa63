"""The trials of a search: Optuna's own study, one trial for each job of the sweep.

study.db (sqlite) in the sweep directory keeps them; trial n is job n. A trial is RUNNING from when it is
asked for until its job is done: whatever kills the sweep or the job, its parameters are there to be tried
again.

Akiba et al. 2019, Optuna, arXiv:1907.10902; TPE: Bergstra et al. 2011; NSGA-II: Deb et al. 2002.
"""

import fcntl
import math
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from crescendo.errors import UserError
from crescendo.randomness import seed_of
from crescendo.runs import read_summary
from crescendo.sweeps.jobs import job_status
from crescendo.sweeps.record import StudySettings, Sweep

try:
    import optuna
    from optuna.trial import FrozenTrial, TrialState
    from sqlalchemy.pool import NullPool
except ModuleNotFoundError as error:
    raise UserError(f'sweep=optuna needs pip install "crescendo[sweeps]": {error}.') from error

from crescendo.sweeps.space import Space

DATABASE = "study.db"
NAME = "study"  # of the one study in the database
WAIT_SECONDS = 60.0  # for another process that writes to it
MACS = "macs"  # attribute of a trial, under max_macs: what its net has
MOST_REFUSED = 500  # in a row, until the space itself is refused

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Study:
    """The study of a sweep directory.

    Several processes may run it at once: each trial is asked for under a lock.

    Raises:
        UserError: the settings name no space, or arguments that Optuna does not take.
    """

    def __init__(self, directory: Path, settings: StudySettings) -> None:
        self.directory, self.settings = directory, settings
        self.space = Space.parse(settings.space)
        pruner = settings.pruner
        self._pruner = _made(optuna.pruners, "pruner", pruner.name, pruner.arguments)
        self._sampler(0)

    @classmethod
    def read(cls, directory: Path) -> "Study":
        """The study that a sweep directory records.

        Raises:
            UserError: it records none.
        """
        sweep = Sweep.read(directory)
        if sweep.study is None:
            raise UserError(f"{directory} is not a study.")
        return cls(directory, sweep.study)

    def known_jobs(self) -> dict[int, Sequence[str]]:
        """The overrides of each trial that was asked for, by number; a trial that was refused has no job."""
        if not (self.directory / DATABASE).exists():
            return {}
        return {trial.number: self.space.overrides(trial.params) for trial in self._jobs()}

    def ask(
        self, count: int, macs_of: Callable[[Sequence[str]], int] | None = None
    ) -> dict[int, Sequence[str]]:
        """The next trials, at most `count`, with their overrides; empty when there are n_trials.

        Args:
            macs_of: the MACs of the net that overrides make, where max_macs is to be held.

        Raises:
            UserError: one net after the other has more than max_macs.
        """
        asked: dict[int, Sequence[str]] = {}
        limit, refused = self.settings.max_macs, 0
        with self._alone():
            while len(asked) < count and len(self._jobs()) < self.settings.n_trials:
                number = len(self._study.get_trials(deepcopy=False))
                self._study.sampler = self._sampler(number)  # draws that no other process has drawn
                trial = self._study.ask(self.space.searched)
                overrides = self.space.overrides(trial.params)
                if limit is not None:
                    assert macs_of is not None
                    trial.set_user_attr(MACS, macs := macs_of(overrides))
                if limit is None or macs <= limit:
                    asked[trial.number], refused = overrides, 0
                    continue
                self._study.tell(trial.number, state=TrialState.FAIL)  # as if it had not been drawn
                refused += 1
                if refused == MOST_REFUSED:
                    raise UserError(
                        f"hydra.sweeper.study.max_macs={limit:g}: {refused} nets in a row have more, the "
                        f"last one {macs:,} at the resolution of evaluation. Allow more, or search "
                        "smaller nets."
                    )
        return asked

    def front(self) -> list[int]:
        """The trials that no other beats in one thing and equals in the rest; without a front, none."""
        return [trial.number for trial in self._study.best_trials] if self.settings.front else []

    def settle(self) -> None:
        """Tell the study what became of the trials whose jobs are done.

        Raises:
            UserError: a job finished without the study's metric, or a cost of its.
        """
        with self._alone():
            for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                directory = self.directory / str(trial.number)
                status = job_status(directory)
                if not self._is_job(trial) or status == "failed":
                    self._study.tell(trial.number, state=TrialState.FAIL)
                elif status == "pruned":
                    self._study.tell(trial.number, state=TrialState.PRUNED)
                elif status == "finished":
                    values = self.settings.values(read_summary(directory))
                    if values is None:
                        needed = ", ".join([self.settings.metric, *self.settings.costs])
                        raise UserError(
                            f"{directory} does not have all of {needed}: was it validated, and its step "
                            "measured (measure_step=true)?"
                        )
                    self._study.tell(trial.number, values)

    def hopeless(self, number: int, epoch: int, value: float) -> bool:
        """Whether the pruner gives a trial up after this epoch's validation, which is recorded.

        Of a front nothing is recorded: Optuna has no pruner for it.
        """
        if self.settings.front:
            return False
        study_id = self._storage.get_study_id_from_name(NAME)
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
        known = self._storage.get_trial(trial_id)
        if known.state.is_finished():  # its run was resumed by itself, after the study was done with it
            return False
        trial = optuna.trial.Trial(self._study, trial_id)
        if epoch not in known.intermediate_values:  # an interrupted trial comes by here again
            trial.report(value, epoch)
        return trial.should_prune()

    @cached_property
    def _storage(self) -> optuna.storages.BaseStorage:
        path = self.directory / DATABASE
        return optuna.storages.RDBStorage(
            "sqlite://",  # any path, whatever characters a URL minds
            engine_kwargs={
                "creator": lambda: sqlite3.connect(path, timeout=WAIT_SECONDS),
                "poolclass": NullPool,
            },
        )

    @cached_property
    def _study(self) -> optuna.Study:
        return optuna.create_study(
            storage=self._storage,
            study_name=NAME,
            directions=[self.settings.direction, *["minimize"] * len(self.settings.front)],  # type: ignore[list-item]
            sampler=self._sampler(0),
            pruner=self._pruner,
            load_if_exists=True,
        )

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """The sampler of one trial, seeded by it: a resumed study does not draw its first ones again."""
        seed = seed_of(self.settings.seed, number) % 2**32
        sampler = self.settings.sampler
        return _made(optuna.samplers, "sampler", sampler.name, sampler.arguments | {"seed": seed})

    def _jobs(self) -> list[FrozenTrial]:
        return [trial for trial in self._study.get_trials(deepcopy=False) if self._is_job(trial)]

    def _is_job(self, trial: FrozenTrial) -> bool:
        """Whether all parameters were drawn, and max_macs allows them.

        A kill in the middle of either leaves a trial that never runs.
        """
        limit = self.settings.max_macs
        allowed = limit is None or trial.user_attrs.get(MACS, math.inf) <= limit
        return trial.distributions == self.space.searched and allowed

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Among the processes that run this study."""
        path = self.directory / ".locks" / "study"
        path.parent.mkdir(exist_ok=True)
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _made(module: ModuleType, key: str, name: str, arguments: Mapping[str, object]) -> Any:
    """A sampler or pruner of Optuna's.

    Raises:
        UserError: it does not take these arguments.
    """
    try:
        return getattr(module, name)(**arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"hydra.sweeper.study.{key}: {error}") from error
