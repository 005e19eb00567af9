"""Which image a run uses when its code location is deployed again."""

from contextlib import contextmanager

from support.cli import docker
from support.harness import wait_until


@contextmanager
def deployed(stack, folder):
    """Serves another image of the code location for as long as the block lasts; yields its ID."""
    tag = stack.config["services"]["code_location"]["image"]
    before = stack.inspect(stack.container_of("code_location"))["Image"]
    again = "up", "--detach", "--wait", "--no-deps", "--no-build", "code_location"
    (folder / "Dockerfile").write_text(f"FROM {tag}\nLABEL changed=1\n")
    made = docker("build", "--quiet", "--tag", tag, str(folder))
    stack.compose(*again)
    try:
        yield made.strip()
    finally:
        docker("tag", before, tag)
        stack.compose(*again)


def image_of(stack, run):
    """The ID of the image that a run's container is made from, and the one in the run's tags."""
    query = "query Tags($id: ID!) { runOrError(runId: $id) { ... on Run { tags { key value } } } }"
    tags = {one["key"]: one["value"] for one in stack.graphql(query, id=run)["runOrError"]["tags"]}
    return stack.inspect(stack.run_containers()[run])["Image"], tags["dagster/image"]


def test_a_run_executes_the_code_it_was_launched_with_and_a_retry_the_newest(stack, tmp_path):
    old = stack.inspect(stack.container_of("code_location"))["Image"]
    in_flight = stack.launch("hang")
    wait_until(lambda: stack.status_of(in_flight) == "STARTED", "the run")
    stack.compose("stop", "daemon")
    try:
        queued = stack.launch("process_numbers")
        with deployed(stack, tmp_path) as new:
            assert new != old
            docker("kill", stack.run_containers()[in_flight])
            stack.compose("start", "daemon")
            assert stack.finished(queued) == "SUCCESS"
            assert image_of(stack, queued) == (old, old)
            later = stack.run("process_numbers")
            assert image_of(stack, later) == (new, new)
            assert stack.finished(in_flight) == "FAILURE"
            (again,) = wait_until(lambda: stack.retries_of(in_flight), "a second attempt")
            wait_until(lambda: stack.status_of(again) == "STARTED", "the second attempt to start")
            assert image_of(stack, again) == (new, new)
            stack.terminate(again)
            assert stack.finished(again) == "CANCELED"
    finally:
        stack.compose("start", "daemon")
        wait_until(stack.is_healthy, "the whole stack")
