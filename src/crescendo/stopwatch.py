"""What a training takes: time, and CPU."""

import time


class Stopwatch:
    """Seconds of the clock, and of CPU that this process took in all its threads; it can be held."""

    def __init__(self) -> None:
        self._before = self._begin = (0.0, 0.0)
        self._running = False

    def go(self, before: tuple[float, float] | None = None) -> None:
        """Run on, from what was counted, or from `before`."""
        self._before = self.reading() if before is None else before
        self._begin, self._running = self._now(), True

    def hold(self, before: tuple[float, float] | None = None) -> None:
        """Stop, at what was counted, or at `before`."""
        self._before = self.reading() if before is None else before
        self._running = False

    def reading(self) -> tuple[float, float]:
        """Both, since it was last at zero and without what it was held for."""
        if not self._running:
            return self._before
        seconds, cpu_seconds = (
            before + now - begin
            for before, now, begin in zip(self._before, self._now(), self._begin, strict=True)
        )
        return seconds, cpu_seconds

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()
