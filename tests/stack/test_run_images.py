"""Which image a run uses when its code location is deployed again."""

from contextlib import contextmanager

import pytest

from support.cli import docker, outdated
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
    return stack.inspect(stack.run_containers()[run])["Image"], stack.tags_of(run)["dagster/image"]


@pytest.mark.whole
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


@pytest.mark.whole
def test_earlier_images_go_except_the_last_three_and_those_that_are_needed(stack, tmp_path):
    """The needed ones are older: of a run that waits, and of a container that has ended."""
    tag = stack.config["services"]["code_location"]["image"]
    before = stack.inspect(stack.container_of("code_location"))["Image"]
    made, run = [], None
    for number in range(6):
        (tmp_path / "Dockerfile").write_text(f"FROM {tag}\nLABEL number={number}\n")
        made.append(docker("build", "--quiet", "--tag", tag, str(tmp_path)).strip())
    docker("tag", before, tag)
    # Live one after the other, after whatever other tests have deployed to this stack.
    live = ", ".join(f"('code_location', '{image}', '0', '0', 'up', 'test')" for image in made)
    columns = "service, image, version, revision, verb, who"
    stack.sql(f"INSERT INTO deploys ({columns}) VALUES {live}")
    container = docker("create", made[1], "true").strip()
    stack.compose("stop", "daemon")
    try:
        run = stack.launch("talk")
        tags = "run_body = replace(run_body, '{0}', '{1}')", "value = replace(value, '{0}', '{1}')"
        for table, change in zip(("runs", "run_tags"), tags, strict=True):
            change = change.format(before, made[0])
            stack.sql(f"UPDATE {table} SET {change} WHERE run_id = '{run}'")
        outdated.remove_images(stack)
        left = docker("image", "ls", "--quiet", "--no-trunc", "--filter=dangling=true").split()
        assert [image in left for image in made] == [True, True, False, True, True, True]
    finally:
        docker("rm", container)
        if run:
            stack.terminate(run)
        stack.compose("start", "daemon")
        wait_until(stack.is_healthy, "the whole stack")
        stack.sql("DELETE FROM deploys WHERE who = 'test'")
        docker("image", "rm", *made[:2], *made[3:])
