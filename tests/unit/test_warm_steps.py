"""What the processes of steps have imported before they are forked."""

import subprocess
import sys

import pytest
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.multiprocess import MultiprocessExecutor

from control_plane.code_server.warm_steps import PRELOAD, start_steps_warm

IMPORTED = "import threading, {}; assert threading.active_count() == 1"


@pytest.fixture
def warm(monkeypatch):
    monkeypatch.setattr(MultiprocessExecutor, "__init__", MultiprocessExecutor.__init__)
    start_steps_warm()


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize(("asked", "given"), [(None, "forkserver"), ("spawn", "spawn")])
def test_steps_are_forked_unless_the_run_s_configuration_says_otherwise(asked, given):
    made = MultiprocessExecutor(retries=RetryMode.DISABLED, max_concurrent=1, start_method=asked)
    assert made._start_method == given
    assert made._explicit_forkserver_preload == (PRELOAD if asked is None else None)


def test_what_they_import_exists_and_starts_no_thread():
    """Python ignores one that cannot be imported. A thread would not outlive a fork."""
    done = subprocess.run([sys.executable, "-c", IMPORTED.format(", ".join(PRELOAD))], check=False)
    assert done.returncode == 0
