"""What the processes of steps have imported before they are forked."""

import subprocess
import sys

import pytest
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.multiprocess import MultiprocessExecutor

from control_plane.code_server.warm_steps import PRELOAD, STORE, start_steps_warm

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
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED.format(", ".join([*PRELOAD, STORE]))], check=False
    )
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("code", "safe"),
    [
        ("import json", True),
        ("import random; random.seed(1)", True),
        ("import socket; kept = socket.create_server(('127.0.0.1', 0))", False),
        ("import threading; threading.Timer(99, print).start()", False),
        ("import sys, types; sys.modules['numpy'] = types.ModuleType('numpy')", False),
        ("raise SystemExit(3)", False),
    ],
)
def test_a_project_is_loaded_before_the_fork_only_if_a_fork_has_all_of_it(code, safe):
    program = f"""
import os
from control_plane.code_server import project_for_steps as it
keep = []
def load():
    {code.replace("; ", chr(10) + "    ")}
    keep.append(locals())
it.load = load
assert it.is_safe() is {safe}
os._exit(0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_forking_process_begins_again_without_a_project_that_is_not_safe():
    """As multiprocessing starts it: with a command line that names its module."""
    program = """
import multiprocessing.forkserver, os, sys
assert "multiprocessing.forkserver" in sys.orig_argv[2]
from control_plane.code_server import project_for_steps as it
it.is_safe = lambda: False
again = os.environ.get(it.WITHOUT)
print("again" if again else "first", flush=True)
it.main()
print("goes on", flush=True)
"""
    # Importing it has called main already; there, no project can be imported.
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[-3:] == ["again", "goes on", ""]
