"""One daemon works at a time, also when two were started (control_plane/only_daemon.py)."""

import subprocess

import pytest

from support.cli import docker
from support.harness import wait_until

HOLDER = """SELECT pid FROM pg_locks WHERE relation = 'only_daemon'::regclass AND granted"""
LOCK = "LOCK TABLE only_daemon IN {mode} MODE"


def daemons(stack, *, everything=False):
    """The containers of the daemon, the oldest last."""
    which = (
        f"--filter=label=com.docker.compose.project={stack.name}",
        "--filter=label=com.docker.compose.service=daemon",
    )
    return docker("ps", *(["--all"] if everything else []), "--quiet", *which).split()


def waits(container):
    done = subprocess.run(["docker", "logs", container], capture_output=True, text=True, check=True)
    return "another daemon of this stack works" in done.stdout + done.stderr


def test_a_second_daemon_waits_and_works_when_the_first_one_is_gone(stack):
    (first,) = daemons(stack)
    (holder,) = stack.sql(HOLDER)
    scaled = "up", "--detach", "--no-deps", "--no-recreate"
    stack.compose(*scaled, "--scale", "daemon=2", "daemon")
    try:
        (second,) = set(daemons(stack)) - {first}
        wait_until(lambda: waits(second), "the second daemon to wait")
        assert stack.sql(HOLDER) == [holder]
        docker("kill", first)
        wait_until(lambda: stack.sql(HOLDER) not in ([], [holder]), "the second daemon to work")
        stack.run("process_numbers")
        docker("start", first)
        wait_until(lambda: waits(first), "the first daemon to wait")
    finally:
        stack.compose(*scaled, "daemon")
    wait_until(lambda: len(daemons(stack, everything=True)) == 1, "one daemon to be left")
    wait_until(stack.is_healthy, "the stack to be healthy")
    stack.run("process_numbers")


def test_a_daemon_that_has_lost_its_lock_to_another_one_ends(stack):
    (holder,) = stack.sql(HOLDER)
    container = stack.container_of("daemon")
    before = stack.inspect(container)["State"]["StartedAt"]
    # It is the next in the queue for the lock.
    client = "psql", "--username=postgres", "--dbname=dagster", "-At", "--command"
    taking = subprocess.Popen(
        ["docker", "exec", stack.container_of("postgres"), *client,
         f"BEGIN; {LOCK.format(mode='EXCLUSIVE')}; SELECT pg_sleep(5)"]
    )  # fmt: skip
    queued = f"{HOLDER.removesuffix('granted')} NOT granted"
    wait_until(lambda: stack.sql(queued), "the other one to wait for the lock")
    stack.sql(f"SELECT pg_terminate_backend({holder})")
    assert taking.wait(60) == 0
    wait_until(
        lambda: stack.inspect(container)["State"]["StartedAt"] != before, "the daemon to end"
    )
    wait_until(lambda: stack.sql(HOLDER), "the daemon to work again")
    stack.run("process_numbers")


def test_a_daemon_that_only_loses_its_connection_goes_on(stack):
    (holder,) = stack.sql(HOLDER)
    state = stack.inspect(stack.container_of("daemon"))["State"]
    stack.sql(f"SELECT pg_terminate_backend({holder})")
    wait_until(lambda: stack.sql(HOLDER) not in ([], [holder]), "the daemon to have its lock")
    assert stack.inspect(stack.container_of("daemon"))["State"]["Pid"] == state["Pid"]


def test_the_lock_holds_up_no_vacuum(stack):
    (pid,) = stack.sql(HOLDER)
    asked = (
        f"SELECT backend_xid IS NULL, backend_xmin IS NULL FROM pg_stat_activity WHERE pid={pid}"
    )
    assert stack.sql(asked) == ["t|t"]


@pytest.mark.parametrize("mode", ["ACCESS SHARE", "ROW EXCLUSIVE", "EXCLUSIVE"])
@pytest.mark.parametrize("role", ["dagster_code", "dagster_viewer"])
def test_user_code_cannot_keep_the_daemon_from_its_work(stack, role, mode):
    assert stack.as_role(role, ["BEGIN", LOCK.format(mode=mode)])[-1] == "42501"
