"""Loader workers and signals: what ends a run reaches the run, not its workers."""

import os
import signal
import threading

TO_THE_RUN = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


def leave_signals_to_the_run(worker: int) -> None:
    """What each loader worker begins with.

    A signal to a process group (Ctrl-C, timeout, a closed terminal, a scheduler) reaches the workers as
    well, which the run needs for its last step, and which were forked with its handlers: each of them would
    tell the run again. They end with their loader, which sends SIGTERM, or when their parent is gone.
    """
    signal.set_wakeup_fd(-1)
    for number in TO_THE_RUN:
        signal.signal(number, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # macOS: SIGTERM ends a worker, whoever sent it
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_the_loader, daemon=True).start()


def _end_with_the_loader() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        continue
    os._exit(0)
