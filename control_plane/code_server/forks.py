"""SIGTERM ends a process that an op has forked, for example a worker of `multiprocessing.Pool`.

The gap: such a process inherits Dagster's handler, which raises an error. Python ignores an error
in a function that runs at the fork (`os.register_at_fork`), as fsspec has one. Pool.terminate then
waits forever. With one core, 2 of 3 runs with 40 pools of stock Dagster did (2026-11). This module
could be deleted if Dagster's handler were for its own process only.
"""

import os
import signal

SIGTERM = {signal.SIGTERM}


def end_forks_by_sigterm() -> None:
    """Makes what this process forks have no handler of Dagster's."""

    def hold() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGTERM)

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGTERM)

    def reset() -> None:
        handler = signal.getsignal(signal.SIGTERM)
        # User code may have a handler of its own.
        if getattr(handler, "__module__", "").startswith("dagster."):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        release()

    os.register_at_fork(before=hold, after_in_parent=release, after_in_child=reset)
