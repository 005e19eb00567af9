"""2,000 connections that are idle, slow or hostile do not stop a launch that happens meanwhile."""

import json

import pytest

from support import ROOT
from support.cli import docker
from support.harness import wait_until

HOSTILE_CLIENTS = (ROOT / "tests/support/hostile_clients.py").read_text()
# How they reach their target, and what they are told; the guard rather hangs up.
ATTACKS = {
    "guard": (
        ["--network=none", "--volume={}_guard-launch:/run/guard/launch:ro",
         "--volume={}_guard-stop:/run/guard/stop:ro"],
        set(),
    ),
    "edge": (["--network={}_edge"], {"401", "429", "400", "431"}),
}  # fmt: skip


@pytest.mark.whole
@pytest.mark.parametrize("target", ATTACKS)
def test_2000_hostile_and_slow_connections_do_not_stop_a_launch_and_a_termination(stack, target):
    way, answers = ATTACKS[target]
    service = stack.container_of(target)
    before = stack.inspect(service)
    image = stack.config["services"]["code_location"]["image"]
    # Half a core: what is tested is the service, not how many processes share this machine.
    clients = docker(
        "create", *(option.format(stack.name) for option in way), "--cpus=0.5", image,
        "python", "-c", HOSTILE_CLIENTS, target, "2000", "240",
    ).strip()  # fmt: skip
    try:
        docker("start", clients)
        wait_until(lambda: "begun" in docker("logs", clients), "2,000 connections")
        stack.run("process_numbers")
        run = stack.launch("hang")
        wait_until(lambda: stack.status_of(run) == "STARTED", "the run")
        stack.terminate(run)
        assert stack.finished(run) == "CANCELED"
        # They are at it still, or it would not have been meanwhile.
        assert stack.inspect(clients)["State"]["Running"]
        docker("kill", "--signal=INT", clients)
        stack.ended(clients)
        seen = json.loads(docker("logs", clients).splitlines()[-1])
    finally:
        docker("rm", "--force", clients)
    assert min(seen["idle"], seen["slow"], seen["hostile"]) > 600
    assert answers <= set(seen), seen
    after = stack.inspect(service)
    assert after["State"]["StartedAt"] == before["State"]["StartedAt"]
    assert (after["RestartCount"], after["State"]["OOMKilled"]) == (before["RestartCount"], False)
    assert after["State"]["Health"]["Status"] == "healthy"
