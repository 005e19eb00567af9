"""Wrong input: one clear line that names the cause and the remedy, and nothing is lost."""

import socket
from pathlib import Path

import pytest
import yaml

from support.cli import docker


def refusal(done):
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = done.stderr.strip().splitlines()
    return line


def test_a_taken_port_is_refused_before_anything_is_built(new_stack):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        stack = new_stack("port", HTTP_PORT=str(port))
        line = refusal(stack.verb("up"))
    assert f"port {port} on 127.0.0.1 cannot be used (Address already in use)" in line
    assert "HTTP_PORT" in line
    assert not stack.services()


def test_a_wrong_stack_name_is_refused_by_name(new_stack):
    line = refusal(new_stack("name", STACK_NAME="My Stack!").verb("up"))
    assert line.startswith("up: STACK_NAME='My Stack!' cannot be used: use lower-case letters")


def test_a_port_that_is_not_a_number_is_refused_by_name(new_stack):
    for port in ("http", "0", "70000", "3000-3010"):
        line = refusal(new_stack("port", HTTP_PORT=port).verb("up"))
        assert line == f"up: HTTP_PORT={port!r} cannot be used: use a number from 1 to 65535"


def test_a_file_or_a_socket_that_is_not_there_is_refused_by_name(new_stack, tmp_path):
    nowhere = str(tmp_path / "nowhere")
    for setting in ("CA_BUNDLE", "DOCKER_SOCKET"):
        line = refusal(new_stack("file", **{setting: nowhere}).verb("up"))
        assert line.startswith(f"up: {setting}={nowhere}")
    assert not Path(nowhere).exists()


def test_a_certificate_without_a_domain_or_a_key_is_refused(new_stack, tmp_path):
    certificate = tmp_path / "certificate.pem"
    certificate.touch()
    half = {"TLS_CERTIFICATE": str(certificate)}
    for settings in (half, {**half, "DOMAIN": "dagster.example"}):
        line = refusal(new_stack("tls", **settings).verb("up"))
        assert line == "up: TLS_CERTIFICATE also needs TLS_KEY, and DOMAIN: set all three"


@pytest.mark.whole
def test_an_unset_variable_is_refused_by_name_before_anything_can_run(new_stack):
    stack = new_stack("variable")
    file = stack.root / "dagster.yaml"
    instance = yaml.safe_load(file.read_text())
    instance["run_launcher"]["config"]["env_vars"].append("WAREHOUSE_URL")
    file.write_text(yaml.safe_dump(instance))
    line = refusal(stack.verb("up"))
    assert "WAREHOUSE_URL is not set" in line
    assert "set WAREHOUSE_URL in .env" in line
    assert stack.services()["daemon"]["State"] == "created"
    # The remedy works.
    (stack.root / ".env").write_text(
        "WAREHOUSE_URL=https://warehouse.example\nTEAM='the \"data\" team'\n"
    )
    # Launcher and guard fill in the same value, also one with quotes.
    instance["run_launcher"]["config"]["container_kwargs"]["labels"]["team"] = "${TEAM}"
    file.write_text(yaml.safe_dump(instance))
    done = stack.verb("up")
    assert done.returncode == 0, done.stderr
    run = stack.run("process_numbers")
    config = stack.inspect(stack.run_containers()[run])["Config"]
    assert "WAREHOUSE_URL=https://warehouse.example" in config["Env"]
    assert config["Labels"]["team"] == 'the "data" team'


@pytest.mark.whole
def test_a_database_of_another_major_version_is_refused_and_left_alone(new_stack):
    stack = new_stack("major")
    volume = f"{stack.name}_postgres-data"
    stack.compose("build", "prepare")
    image = stack.config["services"]["prepare"]["image"]
    write = f"--volume={volume}:/v", "--entrypoint=sh", image, "-c", "echo 16 >/v/PG_VERSION"
    docker("run", "--rm", "--user=0", *write)
    line = refusal(stack.verb("up"))
    assert "made by PostgreSQL 16, this stack runs PostgreSQL 17" in line
    assert "POSTGRES_IMAGE" in line
    listing = docker("run", "--rm", f"--volume={volume}:/v", "--entrypoint=ls", image, "-A", "/v")
    assert listing.split() == ["PG_VERSION"]
