"""Images that cannot be read: another is drawn in training, evaluation leaves them out, or the run ends.

A loader worker reads around a fault and tells of it with the batch; whether the run goes on is decided in
the process that trains, which no exception of a worker reaches in one piece.
"""

import contextlib
import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from crescendo.data.listing import printable
from crescendo.data.sampler import Draws
from crescendo.errors import UserError
from crescendo.randomness import seed_of

log = logging.getLogger(__name__)

MOST_REPLACEMENTS = 10  # of a draw; if none can be read, the batch goes without
LEFT_OUT = -1  # in place of an index
NAMES = "surrogateescape"  # of files: any bytes


class Fault(NamedTuple):
    """An image that a draw could not read: its index, and that of what training takes instead.

    `replaced_by` is None where nothing does: evaluation leaves the image out.
    """

    name: str
    place: int
    reason: str
    replaced_by: int | None


class Faults:
    """What becomes of a run that meets faults.

    Args:
        on_error: "raise" ends it at the first; "skip" goes on and lists them.
        max_errors: different images that "skip" allows; over all devices once there is a `path`.
    """

    def __init__(self, on_error: Literal["raise", "skip"] = "raise", max_errors: int = 100) -> None:
        self.on_error, self.max_errors = on_error, max_errors
        self.path: Path | None = None
        self._names: set[str] = set()

    def keep_in(self, path: Path) -> None:
        """List faults in `path` from now on, and count what it has already."""
        self.path = path
        self._names |= _listed(path)

    def __len__(self) -> int:
        return len(self._names)

    def meet(self, faults: Sequence[Fault]) -> None:
        """Take note of a batch's faults.

        Raises:
            UserError: they end the run.
        """
        for fault in faults:
            if self.on_error == "raise":
                raise UserError(
                    f"{printable(fault.name)}: {fault.reason}. It is image {fault.place}. {_WHAT_TO_DO}"
                )
            if fault.name in self._names:
                continue
            self._names.add(fault.name)
            log.warning("left out: %s: %s", printable(fault.name), fault.reason)
            if self.path is not None:
                _append(self.path, fault)
                self._names |= _listed(self.path)  # other devices append to it as well
            if len(self) > self.max_errors:
                place = f", listed in {self.path}" if self.path else ""
                raise UserError(
                    f"{len(self)} images cannot be read{place}: more than data.max_errors={self.max_errors}."
                )

    def refuse_known(self, faults: Sequence[Fault]) -> None:
        """Before anything is drawn.

        Raises:
            UserError: there are any, and on_error is "raise".
        """
        if faults and self.on_error == "raise":
            more = f", nor can {len(faults) - 1} more" if len(faults) > 1 else ""
            raise UserError(
                f"{printable(faults[0].name)} cannot be used{more}: {faults[0].reason}. {_WHAT_TO_DO}"
            )


_WHAT_TO_DO = (
    "Mend or remove it (crescendo check <directory> shows all of them), or go on without: data.on_error=skip."
)


class Replacements:
    """The images that were found faulty so far, in this process, and what is drawn instead.

    A replacement is a function of (seed, epoch, index) and of which images are faulty: the same in any
    process.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self._reasons: dict[int, str] = {}

    def add(self, index: int, reason: str) -> None:
        self._reasons[index] = reason

    def apply(self, draws: Draws) -> tuple[Draws, list[tuple[int, str, int | None]]]:
        """Draws without faulty images; those with their reasons and what replaces them, if anything does."""
        if not self._reasons:
            return draws, []
        indices, faults = draws.indices.copy(), []
        for place, index in enumerate(draws.indices.tolist()):
            if index in self._reasons:
                instead = self._replacement(index, draws.epoch)
                faults.append((index, self._reasons[index], instead))
                indices[place] = LEFT_OUT if instead is None else instead
        kept = indices != LEFT_OUT
        repeats = None if draws.repeats is None else draws.repeats[kept]
        return draws._replace(indices=indices[kept], repeats=repeats), faults

    def _replacement(self, index: int, epoch: int | None) -> int | None:
        if epoch is None:
            return None
        for attempt in range(MOST_REPLACEMENTS):
            other = seed_of(self.seed, epoch, index, attempt) % self.size
            if other not in self._reasons:
                return other
        return None


def _append(path: Path, fault: Fault) -> None:
    """One write a line, so that the devices of a run can share the file."""
    with contextlib.suppress(FileExistsError), path.open("x", encoding="utf-8", errors=NAMES) as file:
        file.write(",".join(Fault._fields) + "\n")
    with path.open("a", newline="", encoding="utf-8", errors=NAMES) as file:
        csv.writer(file).writerow(fault)


def _listed(path: Path) -> set[str]:
    if not path.exists():
        return set()
    with path.open(newline="", encoding="utf-8", errors=NAMES) as file:
        return {row["name"] for row in csv.DictReader(file)}
