"""What the processes of steps have imported before they are forked."""

import json
import os
import subprocess
import sys

import pytest
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.multiprocess import MultiprocessExecutor

from control_plane.code_server.warm_steps import PRELOAD, STORE, start_steps_warm
from support import ROOT

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


def test_what_a_step_imports_begins_no_process_again():
    """The module that does is for the process that forks them, whose command line they have."""
    program = """
import sys
import control_plane.code_server.warm_run, control_plane.code_server.warm_steps
print("control_plane.code_server.project_for_steps" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "False", done.stderr


PROJECT = """
import dagster as dg

@dg.op
def work(): pass

@dg.job(executor_def=dg.multiprocess_executor)
def apart(): work()

@dg.job(executor_def=dg.in_process_executor)
def together(): work()

MARK, STATES = [], []

@dg.definitions
def defs():
    from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext as Context
    STATES.append(Context.is_set() and dict(Context.get().reconstruction_metadata))
    return dg.Definitions(jobs=[apart, together])
"""
# In the place of a step.
STEP = """
import os
import definitions

def step(told, descriptor):
    is_open = os.path.exists(f"/proc/self/fd/{descriptor}")
    told.put([os.getppid(), definitions.MARK, is_open])
    os.kill(os.getpid(), 9)
"""
BEGIN = """
import json, multiprocessing, os, sys
from multiprocessing import forkserver
from pathlib import Path
from control_plane.code_server import hand_over, put_in
put_in.PROJECT = hand_over.SETTINGS = Path(sys.argv[1])
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from control_plane.code_server import project_for_steps, warm_steps

def of(job):
    pointer = ModuleCodePointer("control_plane.code_server.served", "defs", sys.argv[1])
    return JobPythonOrigin(job, RepositoryPythonOrigin(sys.executable, pointer))

"""


def told_by(program, folder):
    """What a program prints that has a project, as in a warm container."""
    (folder / "definitions.py").write_text(PROJECT)
    (folder / "step.py").write_text(STEP)
    path = os.pathsep.join([str(folder), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + program, str(folder)],
        env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_steps_are_forked_from_the_process_that_has_loaded_the_job(tmp_path):
    """They see what it has in memory, and hold none of its files. Their end is noticed."""
    program = """
import definitions, step
definitions.MARK.append(os.getpid())
kept = os.open("/dev/zero", os.O_RDONLY)
os.dup2(kept, 99)
warm_steps.fork_steps_from_here(of("apart"))
server = forkserver._forkserver._forkserver_pid
steps = multiprocessing.get_context("forkserver")
steps.set_forkserver_preload(warm_steps.PRELOAD)
told = steps.SimpleQueue()
for _ in range(2):
    one = steps.Process(target=step.step, args=(told, 99))
    one.start()
    parent, mark, is_open = told.get()
    one.join(30)
    print(json.dumps([parent == server, mark == [os.getpid()], is_open, one.exitcode]))
os.close(forkserver._forkserver._forkserver_alive_fd)
os.waitpid(server, 0)
print(json.dumps(Path(f"/proc/{server}").exists()))
"""
    assert told_by(program, tmp_path) == [[True, True, False, -9], [True, True, False, -9], False]


def test_a_job_without_processes_of_its_own_makes_no_fork(tmp_path):
    program = """
warm_steps.fork_steps_from_here(of("together"))
print(json.dumps(forkserver._forkserver._forkserver_pid))
"""
    assert told_by(program, tmp_path) == [None]


def test_a_process_with_threads_is_not_forked(tmp_path):
    program = """
import threading
threading.Timer(99, print).start()
warm_steps.fork_steps_from_here(of("apart"))
print(json.dumps(forkserver._forkserver._forkserver_pid), flush=True)
os._exit(0)
"""
    assert told_by(program, tmp_path) == [None]


def test_a_step_finds_the_definitions_made_unless_its_run_brings_what_they_come_from(tmp_path):
    program = """
from dagster._core.definitions.repository_definition import RepositoryLoadData
from dagster._core.definitions.metadata.metadata_value import (
    CodeLocationReconstructionMetadataValue as Value)
from dagster._utils.hosted_user_process import recon_repository_from_origin
project_for_steps.load()
repository = recon_repository_from_origin(of("apart").repository_origin)
for state in ({}, {"a": Value("1")}, {}):
    data = RepositoryLoadData(cacheable_asset_data={}, reconstruction_metadata=state)
    repository.with_repository_load_data(data).get_definition()
import definitions
print(json.dumps(definitions.STATES))
"""
    assert told_by(program, tmp_path) == [[False, {"a": "1"}]]
