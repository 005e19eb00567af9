"""`./stack` on the real engine: what it refuses before anything is built, and what it says."""

import json
import os
import pty
import re
import socket
import subprocess

import pytest

from support.cli import COMMAND, docker
from support.harness import wait_until


def containers(stack):
    """The id of each service's container."""
    return {service: state["ID"] for service, state in stack.services().items()}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "HTP_PORT=3001\nCOMPOSE_PROFILES=viewers\nPATH=/x",
            "up: .env sets PATH: services get it too, and could not start with it"
            " | .env sets HTP_PORT, which nothing reads: did you mean HTTP_PORT?"
            " | COMPOSE_PROFILES has 'viewers', which switches nothing on: did you mean viewer?",
        ),
        ("DOMAIN={$HOME}", "cannot be used: use a host name without http:// or a path"),
        (
            "COMPOSE_PROFILES=x",
            "'x', which switches nothing on: there are backup, backup-store, viewer, warehouse",
        ),
    ],
)
def test_a_setting_that_is_none_is_refused_before_anything_is_built(new_stack, line, said):
    stack = new_stack("setting")
    (stack.root / ".env").write_text(f"{line}\n")
    done = stack.verb("up")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].endswith(said), done.stderr
    assert not docker("image", "ls", "--quiet", f"{stack.name}-*")


def test_a_port_that_was_changed_to_a_taken_one_is_refused_and_the_ui_stays(stack):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        done = stack.verb("up", HTTP_PORT=str(taken))
    assert done.returncode == 1
    assert f"port {taken} on 127.0.0.1 cannot be used" in done.stderr
    assert stack.is_healthy()


def test_a_build_that_fails_shows_its_reason_without_a_terminal(new_stack):
    stack = new_stack("build")
    (stack.root / "code_location/src/code_location/broken.py").write_text("def (:\n")
    (stack.root / "code_location/requirements.txt").unlink()
    project = stack.root / "code_location/pyproject.toml"
    project.write_text(project.read_text().replace('"dagster-docker"', '"no-such-package"'))
    done = stack.verb("up")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("up: code location: refused, its packages cannot be installed: ")
    assert "no-such-package was not found" in last


def test_all_that_a_failing_compose_says_is_shown(new_stack):
    stack = new_stack("said")
    stack.override({"guard": {"no_such_key": 1}})
    done = stack.verb("status")
    assert done.returncode == 1
    assert "no_such_key" in done.stderr


@pytest.mark.whole
def test_a_changed_file_of_your_code_restarts_its_code_server_only_and_a_broken_one_is_named(stack):
    defs = stack.root / "code_location/src/code_location/defs"
    changed, broken = defs / "changed.py", defs / "numbers/broken.py"
    # Tests before this one have started some services with other settings.
    assert stack.verb("up").returncode == 0
    before = containers(stack)
    changed.write_text("import dagster as dg\n\n\n@dg.asset\ndef changed() -> int:\n    return 1\n")
    try:
        done = stack.verb("up")
        assert done.returncode == 0, done.stderr
        after = containers(stack)
        assert after.pop("code_location") != before.pop("code_location")
        # Its one-shot, of the same image.
        assert after.pop("code_location_files") != before.pop("code_location_files")
        assert after == before
        stack.run("__ASSET_JOB", assets=["changed"])
        broken.write_text("import no_such_module\n")
        done = stack.verb("up")
        assert done.returncode == 1
        said = "code location code_location does not load: ", "No module named 'no_such_module'"
        assert all(part in done.stderr.strip().splitlines()[-1] for part in said), done.stderr
        # The UI is up and shows it; mended code is live after another `up`.
        assert stack.graphql("{ version }")["version"]
        status = stack.verb("status")
        assert status.returncode == 1
        assert "no_such_module" in status.stderr
    finally:
        changed.unlink()
        broken.unlink(missing_ok=True)
        mended = "code_location_files", "code_location"
        stack.compose("up", "--build", "--detach", "--wait", "--no-deps", *mended)
        wait_until(stack.is_healthy, "the whole stack")


@pytest.mark.whole
def test_a_first_start_without_addresses_leaves_no_network_and_says_where_the_cure_is(new_stack):
    """Two networks of the same addresses fail as the last ones of a machine do."""
    stack = new_stack("addresses")
    subnet = next(iter(stack.networks.values()))
    stack.networks = dict.fromkeys(stack.networks, subnet)
    stack.override()
    done = stack.verb("up")
    assert done.returncode == 1
    assert "docs/how-to/several-stacks" in done.stderr
    assert not docker("network", "ls", "--quiet", "--filter", f"name=^{stack.name}_")
    assert not stack.services()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "list"], "Run: "),
        (["schedule", "list"], "Schedule: process_numbers_every_minute"),
        pytest.param(
            ["instance", "info"],
            "DockerRunLauncher|ComposeRunLauncher",
            marks=pytest.mark.whole,
        ),
        pytest.param(["job", "list"], "process_numbers", marks=pytest.mark.whole),
    ],
)
@pytest.mark.usefixtures("finished_run")
def test_dagster_s_own_command_line_works_in_the_control_plane(stack, arguments, expected):
    done = stack.verb("dagster", *arguments)
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    assert re.search(expected, done.stdout), f"{arguments}: {done.stdout}"
    assert "Read-only" not in done.stderr


def test_a_command_that_dagster_does_not_have_ends_with_its_own_status(stack):
    assert stack.verb("dagster", "no-such-command").returncode == 2


def test_status_and_credentials_speak_json(stack):
    status = json.loads(stack.verb("status", "--json").stdout)
    assert status["problems"] == []
    assert {part["part"] for part in status["parts"]} == set(stack.config["services"])
    credentials = json.loads(stack.verb("credentials", "--json").stdout)
    assert credentials["DAGSTER_PASSWORD"] == stack.password


def answered(stack, answers, *arguments):
    """Runs a verb on a terminal, where questions are answered; returns what it said."""
    mine, theirs = pty.openpty()
    os.write(mine, answers.encode())
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=stack.root, env=stack.environment,
        stdin=theirs, capture_output=True, text=True, check=False,
    )  # fmt: skip
    os.close(theirs)
    os.close(mine)
    return done


def test_destroy_lists_the_volumes_and_asks_about_them_and_about_the_images(new_stack):
    stack = new_stack("asked")
    stack.compose("build", "prepare")
    stack.compose("create", "--no-build", "prepare")
    mine = stack.config["services"]["prepare"]["image"]
    kept_tag = mine.replace(":current", ":mine")
    docker("tag", mine, kept_tag)
    kept = answered(stack, "n\n", "destroy")
    assert kept.returncode == 1
    assert f"{stack.name}_postgres-data" in kept.stdout
    assert docker("volume", "ls", "--quiet", "--filter", f"name={stack.name}_")
    done = answered(stack, "y\ny\n", "destroy")
    assert done.returncode == 0, done.stderr
    assert not docker("volume", "ls", "--quiet", "--filter", f"name={stack.name}_")
    assert not docker("image", "ls", "--quiet", mine)
    assert docker("image", "ls", "--quiet", kept_tag)
