"""`run-step`: a step of an earlier run again, with a debugger, and nothing stored."""

import os
import pty
import select
import subprocess
import sys

import pytest

from support.cli import docker
from support.harness import wait_until


def stored(stack):
    """What has been stored: rows of the database, and files."""
    rows = stack.sql("SELECT (SELECT count(*) FROM runs), (SELECT count(*) FROM event_logs)")
    volume = f"--volume={stack.name}_io-storage:/storage:ro"
    image = stack.config["services"]["code_location"]["image"]
    return rows, docker("run", "--rm", volume, image, "find", "/storage", "-type", "f", "-ls")


def test_a_step_runs_again_with_its_stored_inputs_and_nothing_is_stored(stack):
    run = stack.run("process_numbers")
    stack.ended(stack.run_containers()[run])  # it writes one more event after its success
    before = stored(stack)
    again = stack.verb("run-step", run, "sum_two_sums")
    assert again.returncode == 0, again.stderr
    assert "result = 55 (not stored)" in again.stdout
    assert stored(stack) == before


@pytest.mark.whole
def test_a_step_that_failed_runs_again_in_its_run(stack):
    """`use_data` does not fail in a run that repeats another one."""
    run = stack.launch("recover")
    assert stack.finished(run) == "FAILURE"
    again = stack.verb("run-step", run[:8], "use_data")
    assert again.returncode == 0, again.stderr
    assert "result = 42 (not stored)" in again.stdout
    other = stack.verb("run-step", run, "use_date")
    assert other.returncode == 1
    assert "the run has no step 'use_date', but prepare_data, use_data" in other.stderr


@pytest.mark.whole
def test_on_a_terminal_a_step_that_fails_opens_a_debugger(stack):
    run = stack.launch("fail")
    assert stack.finished(run) == "FAILURE"
    main, side = pty.openpty()
    command = [sys.executable, "-m", "cli", "run-step", run, "break_down"]
    with subprocess.Popen(command, cwd=stack.root, env=stack.environment,
                          stdin=side, stdout=side, stderr=side) as shell:  # fmt: skip
        said = ""

        def has_said(words):
            nonlocal said
            while select.select([main], [], [], 0)[0]:
                said += os.read(main, 4096).decode(errors="replace")
            return words in said

        wait_until(lambda: has_said("(Pdb)"), "the debugger")
        assert "the pump is dry" in said
        os.write(main, b"p 6 * 7\n")
        wait_until(lambda: has_said("42"), "the debugger's answer")
        os.write(main, b"q\n")
        assert shell.wait(60) == 1
    os.close(main)
    os.close(side)
