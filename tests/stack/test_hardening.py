"""What the engine says of each container: hardened, but for the exceptions of docs/security.md."""

from support.hardening import binds, weaknesses


def test_services_are_hardened_but_for_three_exceptions(stack):
    found = {
        service: weaknesses(stack.inspect(row["ID"])) for service, row in stack.services().items()
    }
    assert {service: weak for service, weak in found.items() if weak} == {
        "code_location_files": {"root", "capabilities"},
        "guard": {"root", "docker socket"},
        "prepare": {"root", "capabilities"},
    }
    assert len(found) >= 7


def test_a_run_s_container_is_hardened_without_exception(stack, finished_run):
    container = stack.inspect(stack.run_containers()[finished_run])
    assert not weaknesses(container)
    assert not binds(container)
    assert container["Config"]["User"] == "10001:10001"


def test_a_run_can_write_to_tmp_and_a_full_tmp_is_an_error_and_not_its_end(stack):
    run = stack.launch("fill_tmp")
    assert stack.finished(run) == "FAILURE"
    (failure,) = [e for e in stack.events(run) if e["__typename"] == "ExecutionStepFailureEvent"]
    (cause,) = failure["error"]["causes"]
    assert "No space left on device" in cause["message"]
    assert stack.ended(stack.run_containers()[run])["OOMKilled"] is False
