"""A process that an op forks ends when it is told to."""

import signal
import subprocess
import sys

# A function that runs at the fork, as fsspec has one. The SIGTERM comes while it runs.
OP = """
import multiprocessing, os, signal, sys, time
from dagster._utils.interrupts import raise_interrupts_as
from control_plane.code_server.forks import end_forks_by_sigterm

end_forks_by_sigterm()
reached = multiprocessing.Event()
os.register_at_fork(after_in_child=lambda: (reached.set(), time.sleep(1)))
with raise_interrupts_as(KeyboardInterrupt):
    {before}
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    child.start()
    reached.wait()
    child.terminate()
    child.join(30)
    print(child.exitcode, flush=True)
    child.kill()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
"""


def terminated(before="pass"):
    """What a process printed whose child was terminated, and then itself; and its exit code."""
    command = [sys.executable, "-c", OP.format(before=before)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip(), done.returncode, done.stderr


def test_a_worker_that_is_told_to_end_while_it_starts_ends_and_the_run_gets_dagster_s_error():
    code_of_child, _, error = terminated()
    assert code_of_child == str(-signal.SIGTERM)
    assert "KeyboardInterrupt" in error


def test_a_handler_of_user_code_is_kept():
    code_of_child, code, _ = terminated("signal.signal(signal.SIGTERM, lambda *_: os._exit(7))")
    assert (code_of_child, code) == ("7", 7)
