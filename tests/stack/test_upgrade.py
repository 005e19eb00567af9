"""`./stack up` makes a stack of this commit of one of an earlier commit, and keeps what it had."""

import io
import shutil
import subprocess
import tarfile

import pytest

from support import ROOT
from support.cli import docker

# The last commit with the old layout: 8 networks, WORKSPACE, code_location/defs/.
EARLIER = "b9fbe741f82a"
START = """mutation Start($schedule: ScheduleSelector!) {
    startSchedule(scheduleSelector: $schedule) { __typename } }"""
SCHEDULE = {
    "repositoryLocationName": "code_location",
    "repositoryName": "__repository__",
    "scheduleName": "process_numbers_every_minute",
}


def earlier_checkout(folder):
    """The files of that commit, and what set-up found on this machine."""
    archive = subprocess.run(
        ["git", "archive", EARLIER], cwd=ROOT, capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    shutil.copy(ROOT / ".machine.env", folder)
    return folder


def schedules(stack):
    """The status of each schedule."""
    query = """{ schedulesOrError(repositorySelector: {repositoryLocationName: "code_location",
        repositoryName: "__repository__"}) { ... on Schedules { results {
          name scheduleState { status } } } } }"""
    found = stack.graphql(query)["schedulesOrError"]["results"]
    return {one["name"]: one["scheduleState"]["status"] for one in found}


@pytest.mark.whole
def test_history_outputs_passwords_and_schedules_outlive_an_upgrade(new_stack, tmp_path):
    stack = new_stack("upgrade")
    new_root, stack.root = stack.root, earlier_checkout(tmp_path)
    stack.override()
    # Nothing of the earlier command line is needed: this is what it ran.
    stack.compose("build")
    stack.compose("up", "--detach", "--wait")
    whole, of_an_asset = stack.run("process_numbers"), stack.run("process_numbers_asset")
    password, events = stack.password, stack.events(whole)
    stack.graphql(START, schedule=SCHEDULE)
    before = schedules(stack)
    assert before[SCHEDULE["scheduleName"]] == "RUNNING"

    stack.root = new_root
    for cached in ("config", "client", "password", "settings"):
        stack.__dict__.pop(cached, None)
    done = stack.verb("up")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"

    assert stack.is_healthy()
    assert stack.password == password
    assert {stack.status_of(run) for run in (whole, of_an_asset)} == {"SUCCESS"}
    assert stack.events(whole) == events
    assert schedules(stack) == before
    # What one run of the earlier stack stored is what a run of this one loads.
    stack.run("process_numbers_asset", assets=["summed_two_sums"])
    # Nothing is left of what this version does without.
    left = docker("network", "ls", "--format", "{{.Name}}", "--filter", f"name=^{stack.name}_")
    assert set(left.split()) == {network["name"] for network in stack.config["networks"].values()}
