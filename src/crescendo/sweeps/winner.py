"""Which coefficients a search found best, by how much, and whether that is more than noise.

Candidates are ranked by the validation, so that the test images are still those of no choice.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean
from typing import NamedTuple

from crescendo.analysis.uncertainty import Interval, PairedTest, holm
from crescendo.errors import UserError
from crescendo.runs import read_config, read_summary
from crescendo.scaling.candidates import Candidate, Search
from crescendo.scaling.coefficients import Coefficients
from crescendo.sweeps.record import Sweep

PAPER = Coefficients()
SIGNIFICANCE = 0.05
OWN = ("sweep", "seed")  # what a sweep was told and a training with its winner is not


@dataclass(frozen=True)
class Standing:
    """A candidate and how its trainings came out.

    Attributes:
        validated, tested: accuracies in 0..1 of best.ckpt by seed, those of finished jobs alone.
    """

    candidate: Candidate
    validated: Mapping[int, float]
    tested: Mapping[int, float]

    @property
    def rank(self) -> tuple[int, float]:
        """More seeds first: means over different seeds are no comparison."""
        return len(self.validated), mean(self.validated.values()) if self.validated else 0.0


class Lead(NamedTuple):
    """The winner's validation accuracy minus another's, paired over seeds.

    Attributes:
        p: of the paired t-test, adjusted for the number of candidates by Holm's method.
    """

    difference: Interval
    p: float | None

    @property
    def is_more_than_noise(self) -> bool:
        return self.p is not None and self.p < SIGNIFICANCE and self.difference.mean > 0


@dataclass(frozen=True)
class Outcome:
    """A search and its standings, the best first."""

    sweep: Sweep
    search: Search
    standings: Sequence[Standing]

    @classmethod
    def read(cls, sweep: Sweep) -> "Outcome":
        """What the jobs of a search came to by now.

        Raises:
            UserError: the sweep is none of sweep=compound_coefficients.
        """
        search = sweep.search
        if search is None:
            raise UserError(
                f"{sweep.directory} searches no coefficients, as sweep=compound_coefficients does. Its runs: "
                f"crescendo compare {shlex.quote(str(sweep.directory))}"
            )
        standings = [Standing(candidate, {}, {}) for candidate in search.candidates]
        accuracies: list[tuple[dict[int, float], dict[int, float]]] = [({}, {}) for _ in standings]
        for job in sweep.all_jobs():
            metrics = read_summary(job.directory)["metrics"] if job.status == "finished" else {}
            if "val/accuracy" in metrics and "test/accuracy" in metrics:
                seed = read_config(job.directory).seed
                for known, name in zip(
                    accuracies[job.number % len(accuracies)], ("val", "test"), strict=True
                ):
                    known[seed] = metrics[f"{name}/accuracy"]
        standings = [
            Standing(candidate, validated, tested)
            for candidate, (validated, tested) in zip(search.candidates, accuracies, strict=True)
        ]
        return cls(sweep, search, sorted(standings, key=lambda each: each.rank, reverse=True))

    @property
    def winner(self) -> Standing | None:
        """None before the first job is finished."""
        return self.standings[0] if self.standings[0].validated else None

    @property
    def paper(self) -> Standing | None:
        """That of the paper's coefficients; None where they were left out."""
        return next((each for each in self.standings if each.candidate.stands_for(PAPER)), None)

    @cached_property
    def leads(self) -> list[Lead | None]:
        """Of the winner over each standing; None over itself, and where they share no seed."""
        differences = [
            [
                value - each.validated[seed]
                for seed, value in self.standings[0].validated.items()
                if seed in each.validated
            ]
            for each in self.standings
        ]
        differences[0] = []
        p_values = holm([PairedTest.T.p_value(values) for values in differences])
        return [
            Lead(Interval.of(values), p) if values else None
            for values, p in zip(differences, p_values, strict=True)
        ]

    @property
    def command(self) -> str | None:
        """What trains with the winner's coefficients at phi = 1 as the search did, but for the seed."""
        if self.winner is None:
            return None
        jobs, count = self.sweep.jobs, len(self.standings[0].candidate.overrides)
        base = [each for each in jobs[0][:-count] if each.split("=")[0].lstrip("+") not in OWN]
        return shlex.join(["python", "train.py", *base, *self.standings[0].candidate.overrides])

    @property
    def sentences(self) -> list[str]:
        """The winner in words."""
        winner, candidates = self.winner, len(self.standings)
        if winner is None:
            return ["no finished job was validated yet"]
        seeds = ", ".join(map(str, sorted(winner.validated)))
        validated = Interval.of(list(winner.validated.values())).show(4)
        told = [
            f"winner of {candidates}: {winner.candidate} at {winner.candidate.solved.resolution} px, "
            f"validation accuracy {validated}, test {mean(winner.tested.values()):.4f} (seed {seeds})"
        ]
        if winner.candidate.same:
            told.append(f"  the same net and resolution: {'; '.join(map(str, winner.candidate.same))}")
        if candidates > 1:
            told.append(self._lead_over(self.standings[1], f"the second, {self.standings[1].candidate}"))
        if self.paper is None:
            told.append("the paper's 1.2, 1.1, 1.15 were left out: see above")
        elif self.paper is winner:
            told.append("its net is that of the paper's 1.2, 1.1, 1.15")
        elif self.paper is not self.standings[1]:
            told.append(self._lead_over(self.paper, "the paper's 1.2, 1.1, 1.15"))
        else:
            told.append("the second is the paper's 1.2, 1.1, 1.15")
        if candidates > 1:
            adjusted = f", adjusted for {candidates - 1} tests (Holm)" if candidates > 2 else ""
            told.append(f"±: half of the 95% interval by Student's t over seeds; p: paired t-test{adjusted}")
            told.append("a winner is chosen for its accuracy: its lead is a little too large")
        return told

    def _lead_over(self, other: Standing, name: str) -> str:
        lead = self.leads[self.standings.index(other)]
        if lead is None:
            return f"over {name}: no seed in common"
        sure = "more than noise" if lead.is_more_than_noise else "not more than noise"
        p = "-" if lead.p is None else f"{lead.p:.3f}"
        pairs = len(self.standings[0].validated.keys() & other.validated.keys())
        if lead.difference.half is None:
            sure = "one seed does not tell it from noise"
        elif lead.p is None:
            sure = "without spread, so not tested"
        return f"over {name}: {lead.difference.show(4, '+')} (paired seeds: {pairs}; p {p}): {sure}"
