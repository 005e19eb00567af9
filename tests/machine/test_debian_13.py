"""Bare machines with Debian 13: containers with an engine of their own, used as a new user does.

Such a machine has make and a checkout, and nothing else: no Python, no Docker. It gets from this
machine what an administrator would give it: the authorities it trusts, and pip's package index.
Its apt sources are those that the Debian image was made with. Docker Hub leads to the machine
itself, where nothing answers: images come from a registry on loopback, or from nowhere.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from support import ROOT
from support.harness import checkout

PREFIX = os.environ.get("TEST_STACK_PREFIX", "dagster-test")
DEBIAN_13 = "standin/debian:trixie"
OFFICIAL_DEBIAN_13 = "debian:trixie-slim"
AUTHORITIES = Path("/usr/local/share/ca-certificates")
CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
CHECKOUT = "/srv/dagster"
REGISTRY_PORT = 5000
REGISTRY_CONFIG = f"""
version: 0.1
log: {{level: info}}
storage: {{filesystem: {{rootdirectory: /var/lib/docker-registry}}}}
http: {{addr: "0.0.0.0:{REGISTRY_PORT}"}}
"""
SERVE = (
    "exec docker-registry serve /etc/docker/registry/config.yml >/var/log/docker-registry.log 2>&1"
)
ANSWERS = f"until (: </dev/tcp/127.0.0.1/{REGISTRY_PORT}) 2>/dev/null; do sleep 0.1; done"
ENGINE_CONFIG = json.dumps({"registry-mirrors": [f"http://127.0.0.1:{REGISTRY_PORT}"]})
STATE = """
tail -n 40 /var/log/dockerd.log /var/log/docker-registry.log
cat .machine.env
df -h / /var/lib/docker
docker images
docker ps --all
for container in $(docker ps --all --quiet); do
    docker inspect --format '{{.Name}} {{json .State}}' "$container"
    docker logs --tail 40 "$container"
done
"""
IMAGES = "PYTHON_IMAGE", "POSTGRES_IMAGE", "CADDY_IMAGE"
# How the demo's table says that a job succeeded with the right value.
SUCCEEDED = re.compile(r"^(process_numbers\w*) +\w+ +SUCCESS .* 55$", re.M)


def docker(*arguments, check=True):
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done


def settings(text):
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.M))


def official(name):
    """The base image that docker-compose.yml names when nothing is set."""
    return re.search(rf"\${{{name}:-([^}}]+)}}", (ROOT / "docker-compose.yml").read_text()).group(1)


def base_images():
    """This machine's base image for each official name."""
    here = settings((ROOT / ".machine.env").read_text())
    return {official(name): here[name] for name in IMAGES}


class Machine:
    """A container that is a machine."""

    def __init__(self, name, folder):
        self.name = name
        self.package_index = settings((ROOT / ".machine.env").read_text())["PIP_INDEX_URL"]
        self.certificates = sorted(AUTHORITIES.glob("*.crt"))
        image = DEBIAN_13
        if docker("image", "inspect", image, check=False).returncode:
            image = OFFICIAL_DEBIAN_13
        # The volume: overlayfs does not go on top of overlayfs.
        docker(
            "run", "--detach", "--init", "--name", name, "--privileged",
            "--volume", "/var/lib/docker", "--publish", f"127.0.0.1::{REGISTRY_PORT}",
            "--add-host", "registry-1.docker.io:127.0.0.1", image, "sleep", "infinity",
        )  # fmt: skip
        (checkout(folder) / ".machine.env").unlink()
        docker("cp", str(folder), f"{name}:{CHECKOUT}")
        # The official image has no authorities at all.
        self.run("apt-get update && apt-get install --yes --no-install-recommends ca-certificates")
        for certificate in self.certificates:
            docker("cp", str(certificate), f"{name}:{AUTHORITIES}/")
        self.run("update-ca-certificates && apt-get install --yes --no-install-recommends make")
        if self.package_index:
            self.write("/etc/pip.conf", f"[global]\nindex-url = {self.package_index}\n")

    def run(self, script):
        """Runs a script in the checkout; returns the finished process if it succeeded."""
        done = subprocess.run(
            ["docker", "exec", "--workdir", CHECKOUT, self.name, "bash", "-c", script],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (
            f"{script}: exit status {done.returncode}\n{done.stdout}{done.stderr}{self.state()}"
        )
        return done

    def write(self, path, text):
        folder = str(Path(path).parent)
        subprocess.run(
            ["docker", "exec", "--interactive", self.name, "sh", "-c",
             f"mkdir -p {folder} && cat >{path}"],
            input=text, text=True, check=True,
        )  # fmt: skip

    def state(self):
        """Logs and state, for a failed test's report."""
        script = "bash", "-c", STATE
        state = docker("exec", "--workdir", CHECKOUT, self.name, *script, check=False)
        return f"\n--- {self.name}\n{state.stdout}{state.stderr}"

    def machine_env(self):
        return settings(self.run("cat .machine.env").stdout)

    def images(self):
        listing = self.run("docker images --format '{{.Repository}}:{{.Tag}}'").stdout
        return set(listing.splitlines())

    def start_registry(self, images):
        """Debian's registry on loopback, with these images; the engine to come has it as a mirror.

        Args:
            images: This machine's image for each name that it has in the registry.
        """
        self.run("apt-get install --yes --no-install-recommends docker-registry")
        self.write("/etc/docker/registry/config.yml", REGISTRY_CONFIG)
        self.write("/etc/docker/daemon.json", ENGINE_CONFIG)
        docker("exec", "--detach", self.name, "sh", "-c", SERVE)
        self.run(f"timeout 60 bash -c '{ANSWERS}'")
        address = docker("port", self.name, str(REGISTRY_PORT)).stdout.strip()
        for name, image in images.items():
            pushed = f"{address}/library/{name}"
            docker("tag", image, pushed)
            try:
                docker("push", "--quiet", pushed)
            finally:
                docker("image", "rm", pushed)


@pytest.fixture
def new_machine(tmp_path_factory):
    """Makes bare machines; removes them, with all that is in them, at the end."""
    made = []

    def make(name):
        name = f"{PREFIX}-{name}-{os.getpid()}"
        made.append(name)
        return Machine(name, tmp_path_factory.mktemp(name))

    yield make
    for name in made:
        docker("rm", "--force", "--volumes", name)


def assert_demo_succeeded(machine, done):
    jobs = SUCCEEDED.findall(done.stdout)
    assert jobs == ["process_numbers", "process_numbers_asset"], done.stdout + machine.state()
    assert machine.run("./stack status").returncode == 0


@pytest.mark.release
@pytest.mark.timeout(1200)
def test_a_bare_debian_13_with_a_registry_pulls_the_base_images_and_runs_the_stack(new_machine):
    machine = new_machine("registry")
    images = base_images()
    machine.start_registry(images)

    done = machine.run("machine/setup.sh")
    assert done.stdout == ""
    steps = "installing python3", "installing docker.io", "starting the Docker engine", "pulling"
    lines = done.stderr.splitlines()
    assert len(lines) == len(steps), done.stderr
    for line, step in zip(lines, steps, strict=True):
        assert line.startswith(f"setup: {step}"), done.stderr
    assert machine.images() == set(images), machine.state()
    assert list(map(machine.machine_env().get, IMAGES)) == list(images)

    # Plain Compose, without what set-up found out: the base images are those of docker-compose.yml.
    ca_bundle = CA_BUNDLE if machine.certificates else "/dev/null"
    builds = f"CA_BUNDLE={ca_bundle} PIP_INDEX_URL='{machine.package_index}'"
    machine.run(f"rm .machine.env; {builds} docker compose up --detach --wait")
    assert_demo_succeeded(machine, machine.run("make demo"))
    assert not [image for image in machine.images() if "standin" in image]

    again = machine.run("machine/setup.sh")
    assert again.stdout + again.stderr == ""


@pytest.mark.release
@pytest.mark.timeout(1200)
def test_make_demo_on_a_bare_debian_13_without_a_registry(new_machine):
    machine = new_machine("no-registry")
    done = machine.run("make demo")
    assert "building stand-ins" in done.stderr
    assert all(machine.machine_env()[name].startswith("standin/") for name in IMAGES)
    assert_demo_succeeded(machine, done)

    # A contributor's machine: the Python that set-up installed has no pip and no ensurepip.
    machine.run("make .venv/made && .venv/bin/python -m pytest tests/unit/test_package_index.py")
