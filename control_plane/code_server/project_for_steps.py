"""Loads the project in the process that steps are forked from (warm_steps.py), if forks of it work.

A connection, a file or a thread of code that is imported does not outlive a fork, and forks share
the state of random numbers that numpy and torch have. If this project has one of these, the process
begins again, and each step imports the project itself. So does a step whose project cannot be
imported here: its error belongs into the events of the step.
"""

import gc
import os
import sys

from control_plane.code_server.fork_safety import descriptors, outlives_fork

# Set in the second process.
WITHOUT = "STEPS_IMPORT_PROJECT"


def load() -> None:
    """Imports the project and makes its definitions."""
    from dagster._core.definitions.reconstruct import repository_def_from_target_def

    from control_plane.code_server.served import TARGETS

    # A step asks for these same objects, which keep what they have made.
    for target in TARGETS.values():
        repository_def_from_target_def(target)


def is_safe() -> bool:
    """Loads the project; returns whether a fork of this process has all that it made."""
    before = descriptors()
    try:
        load()
    except BaseException:  # whatever user code raises
        return False
    return outlives_fork(before)


def main() -> None:
    """Begins again without the project if it is not safe."""
    if WITHOUT in os.environ:
        return
    gc.disable()
    if not is_safe():
        os.environ[WITHOUT] = "1"
        os.execv(sys.executable, sys.orig_argv)  # noqa: S606 # what this process is
    # As in bin/dagster.
    gc.freeze()
    gc.enable()


# Only that process imports this module.
if "multiprocessing.forkserver" in "".join(sys.orig_argv[2:3]):
    main()
