"""Dagster's own DockerRunLauncher works behind the guard: nothing there is made for ours."""

import pytest

from support.cli import docker
from support.harness import wait_until

pytestmark = pytest.mark.whole


@pytest.fixture(scope="module")
def stock(stacks):
    """A stack whose dagster.yaml has the stock launcher, which knows no variables."""
    made = stacks.make("stock", extra_definitions=True)
    file = made.root / "dagster.yaml"
    instance = file.read_text().replace("${STACK_NAME}", made.registered)
    instance = instance.replace("${LOCATION}", "code_location")
    for ours, stock in (
        ("module: control_plane.launcher", "module: dagster_docker"),
        ("class: ComposeRunLauncher", "class: DockerRunLauncher"),
        ("    warm_containers: 1\n", ""),
        ("    runs_per_container: 1\n", ""),
        # So that the killed run is not launched again.
        ("run_retries:\n  enabled: true", "run_retries:\n  enabled: false"),
    ):
        assert ours in instance
        instance = instance.replace(ours, stock)
    file.write_text(instance)
    done = made.verb("up")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    yield made
    stacks.remove(made)


def waiting(stack):
    """Launches a run that hangs; returns it and its container when its op executes."""
    run = stack.launch("hang")
    wait_until(lambda: any(e.get("message") == "waiting" for e in stack.events(run)), "the op")
    return run, stack.run_containers(running_only=True)[run]


def test_the_stock_launcher_launches_a_run(stock):
    run = stock.run("process_numbers")
    assert "[DockerRunLauncher]" in stock.said_of(run)


def test_the_stock_launcher_s_health_check_notices_a_killed_container(stock):
    run, container = waiting(stock)
    docker("kill", container)
    assert stock.finished(run) == "FAILURE"
    assert "Container status is exited" in stock.said_of(run)


def test_the_stock_launcher_terminates_a_run(stock):
    run, container = waiting(stock)
    stock.terminate(run)
    assert stock.finished(run) == "CANCELED"
    assert stock.ended(container)["ExitCode"] != 137


def test_the_stock_launcher_launches_a_run_after_its_image_s_tag_is_gone(stock):
    """The guard knows which image the code server runs."""
    image = stock.config["services"]["code_location"]["image"]
    kept = image.replace(":current", ":kept")
    docker("tag", image, kept)
    docker("rmi", image)
    try:
        stock.run("process_numbers")
    finally:
        docker("tag", kept, image)
        docker("rmi", kept)


def test_a_run_whose_image_is_missing_fails_with_the_guard_s_reason(stock):
    daemon, server = stock.container_of("daemon"), stock.container_of("code_location")
    docker("stop", daemon)
    run = stock.launch("process_numbers")
    # Whatever is made from the image has to go first.
    docker("rm", "--force", server, *stock.run_containers().values())
    docker("rmi", "--force", stock.config["services"]["code_location"]["image"])
    docker("start", daemon)
    assert stock.finished(run) == "FAILURE"
    assert "image is not on this machine, and images are not pulled: make up" in stock.said_of(run)
    assert run not in stock.run_containers()
