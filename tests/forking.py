"""Commands of the project as processes that need not import torch and Lightning first.

A server imports what most commands import and forks for each that is asked for. From there on it is a process
as python would have begun for it, with its own directory, arguments, environment and output.
What is imported here may neither begin threads nor read an environment that commands bring.
"""

import atexit
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NoReturn

IMPORTED = (
    "crescendo.training",
    "crescendo.planning",
    "crescendo.scoring",
    "crescendo.cli",
    "sklearn.datasets",
    "wandb",
)


class Server:
    """Runs one command at a time."""

    def __init__(self) -> None:
        self.channel, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdout=subprocess.DEVNULL,  # no terminal, for its children
            )
        self.answers = self.channel.makefile("rb")
        atexit.register(self.close)

    def run(
        self, arguments: Sequence[str], cwd: Path, environment: dict[str, str], out: Path, timeout: float
    ) -> int:
        """The exit status of python <arguments>, minus the signal's number if it died of one.

        Args:
            out: a directory for its "stdout" and "stderr".

        Raises:
            subprocess.TimeoutExpired: it took more than `timeout` seconds, and was killed.
        """
        request = [list(arguments), str(cwd), environment, str(out)]
        self.channel.settimeout(None)
        self.channel.sendall(json.dumps(request).encode() + b"\n")
        child = int(self.answers.readline())
        self.channel.settimeout(timeout)
        try:
            return int(self.answers.readline())
        except TimeoutError as error:
            os.kill(child, signal.SIGKILL)
            server.cache_clear()  # what it has yet to answer is nobody's
            raise subprocess.TimeoutExpired(list(arguments), timeout) from error

    def close(self) -> None:
        self.answers.close()
        self.channel.close()
        self.process.wait()


@cache
def server() -> Server:
    """That of this process."""
    return Server()


def serve(channel: socket.socket) -> list[str]:
    """Fork for each request, and return its arguments in the child."""
    for line in channel.makefile("rb"):
        arguments, cwd, environment, out = json.loads(line)
        child = os.fork()
        if child == 0:
            channel.close()
            become(cwd, environment, Path(out))
            return list(arguments)
        channel.sendall(b"%d\n" % child)
        _, status = os.waitpid(child, 0)
        channel.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
    raise SystemExit


def become(cwd: str, environment: dict[str, str], out: Path) -> None:
    """Make this process a command's."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(out / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    from wandb.sdk.data_types._private import MEDIA_TMP

    os.makedirs(MEDIA_TMP.name, exist_ok=True)  # the child before this one has removed it at its end


def execute(arguments: list[str]) -> None:
    """What python does with its arguments."""
    if arguments[0] == "-m":
        sys.argv[:] = arguments[1:]
        sys.path[0] = os.getcwd()
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv[:] = arguments
        sys.path[0] = str(Path(arguments[0]).parent)
        runpy.run_path(arguments[0], run_name="__main__")


def leave(status: int) -> NoReturn:
    """End as python does, but without taking apart what the server had imported: that takes four seconds."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as python does first
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    for module in IMPORTED:
        importlib.import_module(module)
    command = serve(socket.socket(fileno=int(sys.argv[1])))
    try:
        execute(command)
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            raise  # a message, which python prints
        leave(end.code or 0)
    leave(0)
