"""Volumes without space: what run, client and operator are told, and what comes afterwards."""

import os
import shutil
import subprocess
from contextlib import ExitStack, contextmanager

import pytest

from support.chaos import DEFINITIONS, Chaos
from support.cli import FINAL, StackError, docker
from support.harness import wait_until

MEGABYTES = {"io-storage": 160, "compute-logs": 160, "postgres-data": 320}


@contextmanager
def disk(file, megabytes):
    """A small disk: a loop device with a file system."""
    with file.open("wb") as opened:
        opened.truncate(megabytes * 2**20)
    folder = file.with_suffix(".folder")
    folder.mkdir()
    command("mkfs.ext4", "-q", "-m", "0", str(file))
    # initdb refuses a folder in which something is.
    command("mount", str(file), str(folder))
    (folder / "lost+found").rmdir()
    command("umount", str(folder))
    device = command("losetup", "--find", "--show", str(file)).strip()
    try:
        yield device
    finally:
        command("losetup", "--detach", device)


def command(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def stack(stacks, tmp_path):
    """A stack with three volumes on small disks."""
    with ExitStack() as disks:
        devices = {
            name: disks.enter_context(disk(tmp_path / name, MEGABYTES[name])) for name in MEGABYTES
        }
        made = stacks.make("full")
        options = {name: {"type": "ext4", "device": devices[name]} for name in devices}
        made.override(volumes={name: {"driver_opts": options[name]} for name in options})
        shutil.copy(DEFINITIONS, made.root / "code_location/src/code_location/defs")
        try:
            done = made.verb("up")
            assert done.returncode == 0, f"{done.stdout}{done.stderr}"
            yield made
        finally:
            stacks.remove(made)


@contextmanager
def full(stack, volume):
    """A volume without space, for as long as the block lasts."""
    image = stack.config["services"]["postgres"]["image"]
    where = "--network=none", f"--volume={stack.name}_{volume}:/volume", "--user=0:0"
    run = "run", "--rm", *where, "--entrypoint=sh", image, "-c"
    docker(*run, "cat /dev/zero 2>&1 >/volume/filling | grep 'No space left on device'")
    try:
        yield
    finally:
        docker(*run, "rm /volume/filling")


@pytest.mark.chaos
@pytest.mark.timeout(1200)
@pytest.mark.skipif(os.getuid() != 0, reason="needs loop devices")
def test_with_a_full_volume_run_client_and_operator_are_told_and_then_all_goes_on(stack):
    traffic = Chaos(stack, seconds=6).traffic
    daemon = stack.container_of("daemon")

    def probe():
        done = subprocess.run(
            ["docker", "exec", daemon, "python", "control_plane/probe.py", "daemon"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stderr

    with full(stack, "io-storage"):
        _, run = traffic.request()
        assert stack.finished(run) == "FAILURE"
        (error,) = [
            event["error"] for event in stack.events(run)
            if event["__typename"] == "ExecutionStepFailureEvent"
        ]  # fmt: skip
        assert "No space left on device" in str(error)
        assert "the disk is full, 0 MiB are left for /var/lib/dagster/storage" in probe()
    with full(stack, "compute-logs"):
        _, run = traffic.request()
        assert stack.finished(run) == "SUCCESS"
        assert "is full. Step logs of this run may be incomplete." in stack.said_of(run)
        assert "the disk is full, 0 MiB are left for /var/lib/dagster/compute-logs" in probe()
    launched = []

    def accepted():
        try:
            launched.append(traffic.launch("insistent"))
        except (StackError, OSError, ValueError):
            return False
        return True

    with full(stack, "postgres-data"):
        wait_until(lambda: not accepted(), "Postgres to have no space")
        # Postgres itself ends when it cannot write its log of transactions.
        reasons = "the disk is full, 0 MiB are left for the volume postgres-data", "No space left"

        def is_said():
            said = stack.verb("status").stderr
            return "postgres: " in said and any(reason in said for reason in reasons)

        wait_until(is_said, "the status to say so")
    wait_until(stack.is_healthy, "the whole stack", 300)
    # The client asks again until it is told that its run is launched.
    wait_until(lambda: accepted(), "a launch")

    def all_ended():
        return all(run["status"] in FINAL for run in stack.runs_tagged("chaos", "insistent"))

    # start_timeout_seconds is 180: then the runs that never came into the queue end.
    wait_until(all_ended, "its runs to end", 300)
    chaos = Chaos(stack, seconds=6)
    runs = chaos.runs()["insistent"]
    root = {run["runId"]: run["tags"].get("dagster/root_run_id", run["runId"]) for run in runs}
    # Each launch that was accepted succeeds once, at the first attempt or a later one.
    succeeded = [root[run["runId"]] for run in runs if run["status"] == "SUCCESS"]
    assert sorted(succeeded) == sorted(launched), runs
    # The others have never executed.
    lines = chaos.counted("insistent")["insistent"]
    assert len(set(lines)) == len(lines), lines
    assert {root[line.split()[0]] for line in lines} == set(launched)
