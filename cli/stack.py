"""One stack: a Compose project and the run containers that belong to it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from signal import SIG_IGN, SIGINT, getsignal
from typing import Any
from urllib.parse import urlsplit

from cli import commands, database, dotenv, values
from cli.client import Client, Endpoint
from cli.errors import StackError
from cli.output import note

ROOT = Path(__file__).resolve().parent.parent
# The user with the generated password who can do everything (control_plane/edge/sign_in.py).
OPERATOR = "dagster"
GONE = re.compile(r"locations/(\w+)/compose\.yml: no such file")  # its folder was deleted
LOCALHOST, ANY = "127.0.0.1", ("0.0.0.0", "::")  # noqa: S104


class Stack:
    """A stack: its settings, and what Compose, the engine and the API report about it."""

    def __init__(self, root: Path = ROOT, settings: Mapping[str, str] | None = None) -> None:
        """Reads nothing yet.

        Args:
            root: The folder with docker-compose.yml.
            settings: Overrides of the environment, e.g. STACK_NAME and HTTP_PORT.
        """
        self.root = root
        self.environment = {**os.environ, **(settings or {})}

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs `docker compose` and captures its output.

        Raises:
            StackError: The command failed, and `check` is true. Its output is on stderr.
        """
        done = _captured(self.command(*arguments), self.root, self.environment)
        if check and done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            if len(said) > 1:
                note("\n".join(said))
            reason = GONE.sub(r"\g<0> (./stack location \1 --remove)", said[-1])
            raise StackError(f"docker compose {arguments[0]}: {reason}")
        return done

    def command(self, *arguments: str) -> list[str]:
        """The command line for Compose."""
        return commands.compose(self.root, *arguments)

    @cached_property
    def settings(self) -> dict[str, str]:
        """The names in .env with their values."""
        return dotenv.of(self.root)

    @cached_property
    def config(self) -> dict[str, Any]:
        """docker-compose.yml with all settings filled in.

        Raises:
            StackError: A setting is refused.
        """
        values.refuse_wrong(self.environment, self.settings)
        config = json.loads(self.compose("config", "--format", "json").stdout)
        edge = config["services"]["edge"]["environment"]
        has_key = config["secrets"]["tls_key"]["file"] != "/dev/null"
        if edge["TLS"] and not (has_key and edge["SITE"].startswith("https://")):
            raise StackError("TLS_CERTIFICATE also needs TLS_KEY, and DOMAIN: set all three")
        return config

    @property
    def name(self) -> str:
        """STACK_NAME, also the Compose project's name."""
        return self.config["name"]

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that the web UI is published on."""
        ports = self.config["services"]["edge"].get("ports")
        if not ports:
            raise StackError(
                "the edge publishes no port: see `ports` in docker-compose.override.yml"
            )
        return ports[0].get("host_ip", ANY[0]), int(ports[0]["published"])

    @property
    def endpoint(self) -> Endpoint:
        """Where clients on this machine reach the edge."""
        host, port = self.address
        site: str = self.config["services"]["edge"]["environment"]["SITE"]
        # Published on any address is also published on this one.
        return Endpoint(LOCALHOST if host in ANY else host, port, urlsplit(site).hostname)

    @property
    def url(self) -> str:
        """The address of the web UI for programs on this machine."""
        return self.endpoint.url

    @property
    def ui_url(self) -> str:
        """The address of the web UI for browsers. Other clients may not resolve its name."""
        return self.config["services"]["edge"]["environment"]["UI_URL"]

    @property
    def code_servers(self) -> list[str]:
        """The services that serve code locations. Each names the image of its runs."""
        services: dict[str, dict[str, Any]] = self.config["services"]
        variable = "DAGSTER_CONTAINER_IMAGE"
        return [n for n, one in services.items() if variable in (one.get("environment") or {})]

    @property
    def projects(self) -> dict[str, Path]:
        """The folder of each project on this machine, by the service that serves it."""
        services: dict[str, dict[str, Any]] = self.config["services"]
        volumes = {s: services.get(f"{s}_files", {}).get("volumes", []) for s in self.code_servers}
        return {s: Path(v["source"]) for s in volumes for v in volumes[s] if v["type"] == "bind"}

    @property
    def code(self) -> Path:
        """The folder of your project (CODE). Its code location has the folder's name."""
        return self.projects["code_location"]

    @cached_property
    def with_all_profiles(self) -> Stack:
        """The same stack with all profiles. Compose ignores containers of inactive profiles."""
        return Stack(self.root, {**self.environment, "COMPOSE_PROFILES": "*"})

    @cached_property
    def password(self) -> str:
        """The operator's; raises StackError when the stack is not up."""
        return self.password_of(OPERATOR)

    def password_of(self, user: str) -> str:
        """A user's generated password; raises StackError when the stack or the user is missing."""
        if self.services().get("sign_in", {}).get("State") != "running":
            raise StackError(f"the stack {self.name} is not up: make up")
        where = f"/run/sign-in-credentials/{user}"
        return self.compose("exec", "--no-TTY", "sign_in", "cat", where).stdout.strip()

    @cached_property
    def client(self) -> Client:
        """The API, as the operator; raises StackError when the stack is not up."""
        return Client(self.endpoint, OPERATOR, self.password)

    def graphql(self, query: str, **variables: object) -> dict[str, Any]:
        """Asks the web server: see Client.graphql."""
        return self.client.graphql(query, **variables)

    def launch(self, job: str, assets: Sequence[str] = (), **options: Any) -> str:  # noqa: ANN401
        """Launches a job; returns the run ID: see Client.launch."""
        return self.client.launch(job, assets, **options)

    def services(self) -> dict[str, dict[str, Any]]:
        """The state of each service's container, by service, from `docker compose ps`."""
        rows = map(json.loads, self.compose("ps", "--all", "--format", "json").stdout.splitlines())
        return {row["Service"]: row for row in rows if commands.ONE_OFF not in row["Labels"]}

    def run_containers(self, *, running_only: bool = False) -> dict[str, str]:
        """This stack's run containers: container ID by run ID."""
        listing = docker(*commands.run_containers(self.name, running_only=running_only))
        rows = [line.split() for line in listing.splitlines()]
        warm = [container for container, _, job in rows if job == commands.WARM]
        runs_in = database.runs_in(self, warm) if warm else {}
        found: dict[str, str] = {}
        for container, label, _ in rows:
            runs = runs_in.get(container, [(label, False)])
            found |= {run: container for run, over in runs if not (running_only and over)}
            if not runs and not running_only:  # it waits for its first run
                found[label] = container
        return found


def docker(*arguments: str) -> str:
    """Runs the docker client; returns what it wrote to stdout, or raises StackError."""
    done = _captured(["docker", *arguments])
    if done.returncode:
        raise StackError(f"docker {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


def _captured(
    command: Sequence[str], root: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, cwd=root, env=environment, text=True, errors="replace",
            capture_output=True, check=False,
            start_new_session=getsignal(SIGINT) == SIG_IGN,  # docker ignores no Ctrl-C by itself
        )  # fmt: skip
    except FileNotFoundError:
        raise StackError("docker is not installed on this machine: make up installs it") from None
