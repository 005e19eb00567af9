"""Whether what code has made when it was imported outlives a fork of its process.

The gap: Python forks a process with open files, connections, threads, and random numbers that are
the same on both sides, and says nothing.
"""

import os
import sys

# Python's own random numbers begin anew in a fork.
RANDOM = {"numpy", "torch", "tensorflow", "jax", "mxnet"}


def descriptors() -> set[str]:
    """The files and connections that this process has open."""
    found: set[str] = set()
    for number in os.listdir("/proc/self/fd"):  # noqa: PTH208 # numbers, not files
        try:
            target = os.readlink(f"/proc/self/fd/{number}")  # noqa: PTH115
        except OSError:  # that of the list itself
            continue
        found.add(f"{number} {target}")
    return found


def outlives_fork(before: set[str]) -> bool:
    """Whether a fork of this process has all that the project has made.

    Args:
        before: What was open before the project was loaded.
    """
    return is_alone() and descriptors() <= before and not RANDOM & sys.modules.keys()


def is_alone() -> bool:
    """Whether this process has one thread, those of libraries included."""
    return len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208
