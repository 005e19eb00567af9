"""What the daemon does about the containers of runs that have ended."""

from support.harness import wait_until


def test_a_run_s_container_has_its_name_and_goes_when_its_time_is_over(stack):
    good, bad = stack.run("talk"), stack.launch("fail")
    assert stack.finished(bad) == "FAILURE"
    before = stack.run_containers()
    assert stack.inspect(before[good])["Name"] == f"/{stack.name}-talk-{good[:8]}"
    settings = stack.environment
    again = "up", "--detach", "--wait", "--no-deps", "daemon"
    stack.environment = {**settings, "KEEP_SUCCEEDED_CONTAINERS": "0m"}
    try:
        stack.compose(*again)
        wait_until(lambda: good not in stack.run_containers(), "the container to go")
        assert stack.run_containers()[bad] == before[bad]
    finally:
        stack.environment = settings
        stack.compose(*again)
    # What the UI shows stays.
    assert "said on stdout" in stack.captured(good)[0]
