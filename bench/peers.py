"""The deployments that are measured side by side: Dagster's documented one, and this one thrice."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cli import commands
from cli.client import FINAL, Client, Endpoint
from cli.database import rows
from cli.errors import StackError
from cli.stack import LOCALHOST, ROOT, Stack, docker

STOCK = ROOT / "bench/stock/compose.yml"
JOBS = ROOT / "bench/project/jobs.py"
# A copy of the example project with these jobs. Its folder's name is that of the code location.
PROJECT = ROOT / ".bench/code_location"
# Checkouts in which no container waits for runs, and in which each executes many.
COLD, SHARED = ROOT / ".bench/cold", ROOT / ".bench/shared"
STOCK_PORT, OURS_PORT, COLD_PORT, SHARED_PORT = 3901, 3900, 3902, 3903
SECONDS_PER_RUN = 180
TIMES = """query Times($id: ID!) { runOrError(runId: $id) { ... on Run {
  status startTime endTime } } }"""
TAGS = """query Tags($id: ID!) { runOrError(runId: $id) { ... on Run { tags { key value } } } }"""
READY_SECONDS = 180


class Peer(ABC):
    """A deployment of the same project."""

    name: str
    # A filter of `docker ps` for all that it has.
    mark: str

    @abstractmethod
    def compose(self, *arguments: str) -> str:
        """Runs Compose for it; returns what it printed."""

    @property
    @abstractmethod
    def client(self) -> Client:
        """Its API."""

    def build(self) -> None:
        """Builds its images."""
        self.compose("build", "--quiet")

    def start(self) -> float:
        """Starts it; returns the seconds until its API knows its jobs."""
        begun = time.monotonic()
        self.compose("up", "--detach", "--no-build")
        ready = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }"
        while time.monotonic() < begun + READY_SECONDS:
            try:
                if self.client.graphql(ready)["repositoriesOrError"].get("nodes"):
                    return time.monotonic() - begun
            except (StackError, ValueError, OSError):
                pass
            time.sleep(0.1)
        raise StackError(f"{self.name} has no jobs after {READY_SECONDS} s")

    def services(self) -> dict[str, str]:
        """The running containers, by service."""
        rows = self.compose("ps", "--format", "json").splitlines()
        return {row["Service"]: row["ID"] for row in map(json.loads, rows)}

    def warm(self) -> list[str]:
        """The containers that wait for a run, while none is in progress."""
        filters = f"--filter={self.mark}", f"--filter=label={commands.RUN_LABEL}"
        return docker("ps", "--quiet", "--no-trunc", *filters).split()

    def images(self) -> dict[str, float]:
        """The size of each image that it built, in MB."""
        label = f"--filter=label={commands.PROJECT_LABEL}=dagster-{self.name}"
        # Not those that a later build has replaced.
        named = label, "--filter=dangling=false"
        names = docker("image", "ls", *named, "--format", "{{.Repository}}:{{.Tag}}").split()
        sizes = {
            name: int(docker("image", "inspect", "--format", "{{.Size}}", name)) for name in names
        }
        return {name: sizes[name] / 1e6 for name in sizes}

    def timed(self, job: str) -> tuple[float, float]:
        """Runs a job to success, and waits until nothing more comes of it.

        Returns:
            The seconds from the launch to the start of the run, and to its end.
        """
        begun = time.time()
        run = self.client.launch(job)
        times = self.waited(run, begun)
        self.wait_for_container(run)
        self.settle()
        return times

    def waited(self, run: str, begun: float) -> tuple[float, float]:
        """Waits until a run has ended.

        Returns:
            The seconds from a time (since 1970) to its start, and to its end.

        Raises:
            StackError: It did not succeed.
        """
        deadline = time.monotonic() + SECONDS_PER_RUN
        found: Mapping[str, Any] = {}
        while time.monotonic() < deadline:
            found = self.client.graphql(TIMES, id=run)["runOrError"]
            if found["status"] in FINAL:
                break
            time.sleep(0.2)
        if not found or found["status"] != "SUCCESS":
            raise StackError(f"{self.name}: run {run} is {found.get('status')}")
        return found["startTime"] - begun, found["endTime"] - begun

    def container_of(self, run: str) -> str:
        """The ID of a run's container."""
        tags = self.client.graphql(TAGS, id=run)["runOrError"]["tags"]
        return next(tag["value"] for tag in tags if tag["key"] == "docker/container_id")

    def wait_for_container(self, run: str) -> None:
        """Its container ends after the run."""
        container = self.container_of(run)
        while docker("ps", "--quiet", "--no-trunc", f"--filter=id={container}"):
            time.sleep(0.1)

    def settle(self) -> None:  # noqa: B027 # most have nothing to do
        """What it does after a run must not take CPU time from the next one, which is another's."""

    @contextmanager
    def paused(self) -> Generator[None]:
        """While the other one is measured alone."""
        self.compose("pause")
        try:
            yield
        finally:
            self.compose("unpause")

    def remove(self) -> None:
        """Removes everything that it made."""
        filters = f"--filter={self.mark}", f"--filter=label={commands.RUN_LABEL}"
        runs = docker("ps", "--quiet", "--all", *filters).split()
        if runs:
            docker("rm", "--force", *runs)
        self.compose("down", "--volumes")
        # Not --rmi all: that takes the base images as well.
        built = list(self.images())
        if built:
            docker("image", "rm", "--force", *built)


class Stock(Peer):
    """Dagster's documentation for Docker, followed (bench/stock/)."""

    name = "stock"
    mark = "network=dagster-stock_default"

    def __init__(self) -> None:
        """Nothing is started yet."""
        self.settings = {
            **os.environ,
            "CODE": str(PROJECT),
            "HTTP_PORT": str(STOCK_PORT),
            "DATABASE_PASSWORD": secrets.token_hex(16),
        }

    def compose(self, *arguments: str) -> str:
        """Runs Compose for it; returns what it printed."""
        command = [*commands.compose(ROOT), f"--file={STOCK}", *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=self.settings, text=True, capture_output=True, check=False
        )
        if done.returncode:
            raise StackError(f"stock: {arguments[0]}: {done.stderr.strip()}")
        return done.stdout

    @property
    def client(self) -> Client:
        """Its API, without a password."""
        return Client(Endpoint(LOCALHOST, STOCK_PORT, None), "", "")


class Ours(Peer):
    """This repository, with the settings of a checkout."""

    def __init__(self, name: str, root: Path, port: int) -> None:
        """Nothing is started yet."""
        self.name = name
        stack = f"dagster-{name}"
        self.mark = f"label={commands.STACK_LABEL}={stack}"
        settings = {
            "STACK_NAME": stack,
            "HTTP_PORT": str(port),
            "CODE": str(PROJECT),
            # As shipped, also in `make bench`, which sets these.
            "COMPOSE_PROFILES": "",
            "KEEP_SUCCEEDED_CONTAINERS": "10m",
        }
        self.stack = Stack(root, settings)

    def compose(self, *arguments: str) -> str:
        """Runs Compose for it; returns what it printed."""
        return self.stack.compose(*arguments).stdout

    @property
    def client(self) -> Client:
        """Its API, as the operator."""
        return self.stack.client


class Warm(Ours):
    """As shipped."""

    def settle(self) -> None:
        """Until the next container waits."""
        waits = "SELECT 1 FROM warm_containers WHERE run_id IS NULL AND is_waiting(number)"
        while not rows(self.stack, waits):
            time.sleep(0.2)


class Shared(Ours):
    """One whose containers stay."""

    def wait_for_container(self, run: str) -> None:
        """It does not end after the run."""


def make_checkout(copy: Path, line: str, instead: str) -> None:
    """Copies this repository, with another line in dagster.yaml."""
    shutil.rmtree(copy, ignore_errors=True)
    listed = "git", "ls-files", "--cached", "--others", "--exclude-standard"
    names = subprocess.run(listed, cwd=ROOT, text=True, capture_output=True, check=True).stdout
    for name in [*names.splitlines(), ".machine.env"]:
        source, target = ROOT / name, copy / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    settings = copy / "dagster.yaml"
    before, _, after = settings.read_text().partition(line)
    settings.write_text(before + instead + after)


def make_project() -> None:
    """Copies the example project, with the jobs of the measurement."""
    shutil.rmtree(PROJECT, ignore_errors=True)
    ignored = shutil.ignore_patterns(".venv", "__pycache__", ".env")
    shutil.copytree(ROOT / "code_location", PROJECT, ignore=ignored)
    shutil.copy(JOBS, PROJECT / "src/code_location/defs/bench_jobs.py")
