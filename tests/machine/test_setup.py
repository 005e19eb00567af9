"""machine/setup.sh on a machine that is ready, one that is not, and one whose engine was killed."""

import os
import shutil
import subprocess
import tempfile
from itertools import chain
from pathlib import Path

import pytest

from support.engine import MAY_BE_KILLED, PID_FILE, end_engine
from support.harness import wait_until

ROOT = Path(__file__).resolve().parents[2]
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="imitates other machines with mounts")


def setup(*prefix, argument=None, **settings):
    return subprocess.run(
        [*prefix, "machine/setup.sh", *([argument] if argument else [])],
        cwd=ROOT, env={**os.environ, **settings}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def one_line(done):
    assert done.returncode == 1, done.stdout
    (line,) = done.stderr.strip().splitlines()
    return line


@pytest.fixture
def without_docker():
    """A PATH with everything but Docker, readable by every user."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        for command in chain(Path("/usr/sbin").iterdir(), Path("/usr/bin").iterdir()):
            link = Path(folder, command.name)
            if "docker" not in command.name and not link.exists():
                link.symlink_to(command)
        yield folder


def test_a_machine_that_is_ready_is_left_alone_in_silence():
    before = (ROOT / ".machine.env").stat().st_mtime
    done = setup()
    assert done.returncode == 0
    assert done.stdout + done.stderr == ""
    assert (ROOT / ".machine.env").stat().st_mtime == before


def test_too_little_disk_is_refused():
    line = one_line(setup(DISK_NEEDED_MIB="999999999"))
    assert "too little disk" in line
    assert "999999999 MiB needed" in line


def test_an_engine_elsewhere_that_does_not_answer_is_named():
    line = one_line(setup(DOCKER_HOST="tcp://127.0.0.1:1"))
    assert "DOCKER_HOST=tcp://127.0.0.1:1" in line


@pytest.mark.parametrize(
    ("version", "is_enough"),
    [("2.24.7", False), ("v2.9.0", False), ("2.26.0", True), ("v2.40.3-desktop.1", True)],
)
def test_a_compose_that_is_too_old_is_refused_by_name(tmp_path, version, is_enough):
    docker = tmp_path / "docker"
    real = shutil.which("docker")
    asked = '[ "$*" = "compose version --short" ]'
    docker.write_text(f'#!/bin/sh\n{asked} && exec echo {version}\nexec {real} "$@"\n')
    docker.chmod(0o755)
    done = setup(PATH=f"{tmp_path}:{os.environ['PATH']}")
    if is_enough:
        assert done.returncode == 0, done.stderr
    else:
        assert f"docker compose {version} is too old, 2.26 is needed" in one_line(done)


@needs_root
def test_without_root_and_without_an_engine_setup_says_so(without_docker):
    line = one_line(setup(*NOBODY, PATH=without_docker))
    assert "no Docker engine answers and this is not root" in line


@needs_root
def test_an_unknown_distribution_is_refused_by_name(without_docker, tmp_path_factory):
    release = tmp_path_factory.mktemp("etc") / "os-release"
    release.write_text("ID=plan9\nVERSION_ID=4\n")
    elsewhere = f'mount --bind {release} "$(readlink -f /etc/os-release)"; exec "$0"'
    line = one_line(setup("unshare", "--mount", "sh", "-c", elsewhere, PATH=without_docker))
    assert "do not know how to install Docker on plan9 4" in line


@needs_root
def test_a_python_without_venv_is_named_to_a_user_who_cannot_install_it(without_docker):
    """As Debian's python3 is without the package python3-venv."""
    python = Path(without_docker, "python3")
    python.unlink()
    python.write_text('#!/bin/sh\ncase "$*" in *ensurepip*) exit 1 ;; esac\n')
    python.chmod(0o755)
    done = setup(*NOBODY, argument="venv", PATH=without_docker)
    assert done.returncode == 1
    assert "cannot install python3-venv without root" in done.stderr.splitlines()[-1]


@pytest.mark.alone
@pytest.mark.skipif(
    not MAY_BE_KILLED, reason="kills this machine's Docker engine: only where .ci/run or you say so"
)
def test_a_killed_engine_is_started_again_and_the_stack_comes_back_by_itself(stack):
    run = stack.run("process_numbers")
    engine = end_engine()
    # The worst case: another process has its number by now.
    PID_FILE.write_text(str(os.getpid()))
    done = setup()
    assert done.returncode == 0, done.stderr
    assert "starting the Docker engine" in done.stderr
    assert int(PID_FILE.read_text()) not in (engine, os.getpid())
    wait_until(stack.is_healthy, "the whole stack")
    assert stack.status_of(run) == "SUCCESS"
    stack.run("process_numbers")
