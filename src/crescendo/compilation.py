"""torch.compile of a net: one graph a shape, and what making it takes."""

import time

from torch import nn


def compile_net(net: nn.Module, stages: int, mode: bool | str = True) -> None:
    """Compile a net in place, so that its weights keep their names; each shape when it first comes.

    Args:
        mode: of torch.compile; True is its default.

    A training batch has one shape at a stage, and a stage's rates are tensors, so there is at most one
    graph a stage. torch.compile would go on without compiling after eight.
    """
    from torch._dynamo import config as limits  # seconds of import, for who compiles alone

    limits.recompile_limit = max(limits.recompile_limit, stages)
    limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, stages)
    net.compile(dynamic=False, mode=None if mode is True else mode)


class CompileClock:
    """Adds up the seconds in which torch.compile works, forward and backward graphs alike.

    torch calls it when that begins and ends; the first step of a shape alone would tell less, since on a GPU
    it also chooses algorithms and makes room.
    """

    def __init__(self) -> None:
        self._since = self._untaken = 0.0

    def watch(self) -> None:
        """From now on."""
        from torch._dynamo import callback

        callback.on_compile_start(self._begin)
        callback.on_compile_end(self._end)

    def take(self) -> float:
        """Seconds since they were last taken."""
        seconds, self._untaken = self._untaken, 0.0
        return seconds

    def _begin(self, _: object) -> None:
        self._since = time.perf_counter()

    def _end(self, _: object) -> None:
        self._untaken += time.perf_counter() - self._since
