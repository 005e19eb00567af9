"""Kills verbs at random moments: once each in `make test-whole`, five times in `test-chaos`."""

import os
import random
import signal
import subprocess
import time

import pytest

from support.cli import COMMAND
from support.harness import wait_until

TIMES = pytest.mark.parametrize(
    "times",
    [
        pytest.param(1, marks=pytest.mark.whole),
        # Beside other work, five upgrades took more than the usual ten minutes.
        pytest.param(5, marks=[pytest.mark.chaos, pytest.mark.timeout(2400)]),
    ],
)


def kill(stack, moment, *words, **settings):
    """Runs a verb, and kills it and all that it has started after so many seconds.

    Instead of seconds, `moment` may be a condition to wait for.
    """
    verb = subprocess.Popen(
        [*COMMAND, *words], cwd=stack.root, env={**stack.environment, **settings},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    if callable(moment):
        wait_until(moment, "the moment to kill it")
    else:
        time.sleep(moment)
    os.killpg(verb.pid, signal.SIGKILL)
    return verb.wait()


def moments(times, seconds):
    """Random moments; the seed is in the output of a failed test."""
    seed = time.time_ns()
    print(f"seed {seed}")
    chosen = random.Random(seed)  # noqa: S311 # no secret
    return [chosen.uniform(0.5, seconds) for _ in range(times)]
