"""Loops that take turns, so that what slows a machine for seconds slows all of them alike."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Semaphore
from typing import TypeVar

import torch

Result = TypeVar("Result")

PassOn = Callable[[], None]


def in_turns(tasks: Sequence[Callable[[PassOn], Result]]) -> list[Result]:
    """What each task returns. Each is given a function that lets the others go on, one after the other, and
    returns when it is its own turn again; a task that ends, well or not, leaves its turns to the others.

    Each has a thread of its own, of which one runs at a time, but for a task alone, which stays in this one.

    Raises:
        Exception: the first task's that failed, when all have ended.
    """
    if len(tasks) == 1:
        return [tasks[0](lambda: None)]
    threads = torch.get_num_threads()
    waiting = deque(Semaphore(0) for _ in tasks)  # touched by the thread whose turn it is, alone

    def run(task: Callable[[PassOn], Result], turn: Semaphore) -> Result:
        def pass_on() -> None:
            waiting.append(turn)
            waiting.popleft().release()
            turn.acquire()

        turn.acquire()
        try:
            return task(pass_on)
        finally:
            if waiting:
                waiting.popleft().release()

    # Threads of OpenMP are counted for each thread of Python.
    with ThreadPoolExecutor(len(tasks), initializer=lambda: torch.set_num_threads(threads)) as pool:
        ended = [pool.submit(run, task, turn) for task, turn in zip(tasks, tuple(waiting), strict=True)]
        waiting.popleft().release()
    return [each.result() for each in ended]
