"""A training as a process of its own: signals are passed on to it, nothing of it is left behind."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

# What ends a sweep, and what its job is sent. A closed terminal reaches the sweep alone.
PASSED_ON = {
    signal.SIGINT: signal.SIGINT,
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGHUP: signal.SIGTERM,
}
STOP_SECONDS = (120.0, 10.0)  # that a process has to end after the first signal, and after the second
LEFTOVER_SECONDS = 5.0  # that other ranks have to end once the process has
TAIL_BYTES = 4096  # of standard error, to say why a process failed


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: its exit code; -n if signal n ended it.
        reason: one line of why, if the code is not 0.
        told: the signal that this process was sent meanwhile, and passed on.
    """

    code: int
    reason: str | None
    told: signal.Signals | None


def run_process(
    command: Sequence[str], environment: Mapping[str, str], cwd: str, keep: Sequence[int] = ()
) -> Ended:
    """Run a command to its end, in a process group of its own. Its standard error is shown as it comes.

    Args:
        keep: file descriptors that it inherits.
    """
    told: list[signal.Signals] = []
    process: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, frame: FrameType | None = None) -> None:
        told.append(signal.Signals(number))
        if process is not None:
            process.send_signal(PASSED_ON[told[-1]])
            limit = threading.Timer(STOP_SECONDS[min(len(told), 2) - 1], _kill_group, [process.pid])
            limit.daemon = True
            limit.start()
            limits.append(limit)

    limits: list[threading.Timer] = []
    with _handling(pass_on):
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            process_group=0,  # so that Ctrl-C reaches it once: through us
            pass_fds=keep,
        )
        for early in told[:]:
            process.send_signal(PASSED_ON[early])
        tail = bytearray()
        assert process.stderr is not None
        reader = threading.Thread(target=_show, args=(process.stderr.fileno(), tail), daemon=True)
        reader.start()
        try:
            code = process.wait()
        except BaseException:  # submitit ends this process so when a SLURM job's time is over
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS[0])
            _kill_group(process.pid)
            raise
        for limit in limits:
            limit.cancel()
        reader.join(LEFTOVER_SECONDS)  # other ranks share the pipe: it ends with the last of them
        _kill_group(process.pid)
        reader.join(LEFTOVER_SECONDS)
        if not reader.is_alive():
            process.stderr.close()
    return Ended(code, _reason(code, bytes(tail)) if code else None, told[0] if told else None)


@contextmanager
def _handling(handler: object) -> Iterator[None]:
    """Set a handler for the signals that are passed on; one that was ignored (nohup) stays so."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals in the main thread alone
        return
    before = {number: signal.getsignal(number) for number in PASSED_ON}
    for number, earlier in before.items():
        if earlier is not signal.SIG_IGN:
            signal.signal(number, handler)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _show(descriptor: int, tail: bytearray) -> None:
    with suppress(OSError):
        while chunk := os.read(descriptor, 8192):
            os.write(2, chunk)
            tail += chunk
            del tail[:-TAIL_BYTES]


def _reason(code: int, tail: bytes) -> str:
    """A user's mistake, else the last line, which ends a traceback; a signal says more than either."""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    lines = [line.strip() for line in tail.decode(errors="replace").splitlines() if line.strip()]
    mistakes = [line for line in lines if line.startswith("error: ")]
    return mistakes[-1].removeprefix("error: ") if mistakes else lines[-1] if lines else f"exit code {code}"
