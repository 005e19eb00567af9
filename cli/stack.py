#!/usr/bin/env python3
"""What an operator does with the stack, behind the Makefile's verbs. Standard library only.

    stack.py up | down | destroy | status | logs [RUN] | credentials [USER]

Compose does the work; this adds what it leaves open: a taken port is named before anything is
built, a failed start ends in the one line that says why, and run containers, which Compose
does not know, are stopped and removed with the stack.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
# What setup.sh found on this machine, then the user's own settings; later files win.
ENV_FILES = (".machine.env", ".env")
# How Compose and the run launcher (dagster.yaml, labels) mark what belongs to a stack.
STACK_LABEL = "dagster/stack"
RUN_LABEL = "dagster/run_id"
# Run containers get this long to end by themselves when the stack goes down.
RUN_STOP_SECONDS = 30
# Who signs in with the generated password (control_plane/edge/sign_in.py); `viewer` only looks.
OPERATOR = "dagster"
LOCALHOST = "127.0.0.1"
HTTP_SECONDS = 60
MAX_LINE_BYTES = 64 * 1024

LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""


class StackError(Exception):
    """What happened, where to look and what to do, in one line."""


class Stack:
    """One stack: a Compose project and the run containers that belong to it."""

    def __init__(self, root: Path = ROOT, settings: Mapping[str, str] | None = None) -> None:
        """Takes nothing from the engine yet.

        Args:
            root: The folder with docker-compose.yml.
            settings: Overrides of the environment, e.g. STACK_NAME and HTTP_PORT.
        """
        self.root = root
        self.environment = {**os.environ, **(settings or {})}

    def compose(
        self, *arguments: str, check: bool = True, show: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Runs `docker compose`, its output captured unless shown.

        Raises:
            StackError: It failed, and check was asked for; says the last line of its output.
        """
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.root,
            env=self.environment,
            text=True,
            stdout=None if show else subprocess.PIPE,
            stderr=None if show else subprocess.PIPE,
            check=False,
        )
        if check and done.returncode:
            reason = (done.stderr or "").strip() or f"exit status {done.returncode}, output above"
            raise StackError(f"docker compose {arguments[0]}: {reason.splitlines()[-1]}")
        return done

    def command(self, *arguments: str) -> list[str]:
        """The command line for Compose."""
        files = [flag for name in ENV_FILES if (self.root / name).is_file()
                 for flag in ("--env-file", name)]  # fmt: skip
        return ["docker", "compose", *files, *arguments]

    @cached_property
    def config(self) -> dict[str, Any]:
        """docker-compose.yml with all settings filled in.

        Raises:
            StackError: A setting is refused.
        """
        config = json.loads(self.compose("config", "--format", "json").stdout)
        # Compose makes "mystack" of "My Stack!" for its own names and not for images and volumes.
        name = config["services"]["migrate"]["environment"]["STACK_NAME"]
        if not re.fullmatch("[a-z0-9][a-z0-9_-]*", name):
            raise StackError(
                f"STACK_NAME={name!r} cannot name a stack: use lower-case letters, digits, - and _,"
                " beginning with a letter or digit"
            )
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
        (port,) = self.config["services"]["edge"]["ports"]
        return port["host_ip"], int(port["published"])

    @property
    def domain(self) -> str | None:
        """The web UI's public name, if it has one; it then speaks HTTPS."""
        site: str = self.config["services"]["edge"]["environment"]["SITE"]
        return urlsplit(site).hostname

    @property
    def ui_url(self) -> str:
        """Where people find the web UI; browsers resolve its name, other clients may not."""
        return self.config["services"]["edge"]["environment"]["UI_URL"]

    @property
    def url(self) -> str:
        """Where any client on this machine finds the web UI."""
        host, port = self.address
        if self.domain:
            return f"https://{self.domain}" + (f":{port}" if port != 443 else "")
        return f"http://{LOCALHOST if host in ('0.0.0.0', '::') else host}:{port}"  # noqa: S104

    @property
    def with_all_profiles(self) -> Stack:
        """The same stack; Compose overlooks containers of profiles that are not switched on."""
        return Stack(self.root, {**self.environment, "COMPOSE_PROFILES": "*"})

    @cached_property
    def password(self) -> str:
        """The operator's; raises StackError when the stack is not up."""
        return self.password_of(OPERATOR)

    def password_of(self, user: str) -> str:
        """A user's generated password.

        Raises:
            StackError: The stack is not up, or there is no such user.
        """
        where = f"/run/sign-in-credentials/{user}"
        return self.compose("exec", "--no-TTY", "sign_in", "cat", where).stdout.strip()

    def graphql(self, query: str, **variables: object) -> dict[str, Any]:
        """Asks the web server, through the edge.

        Returns:
            The answer's `data`.

        Raises:
            StackError: It does not answer, or answers with errors.
        """
        connection = self._connection()
        try:
            connection.request(
                "POST",
                "/graphql",
                json.dumps({"query": query, "variables": variables}),
                {
                    "Content-Type": "application/json",
                    "Authorization": basic(OPERATOR, self.password),
                },
            )
            response = connection.getresponse()
            text = response.read().decode()
        except OSError as error:
            raise StackError(f"GraphQL at {self.url}: {error}: is the stack up?") from None
        finally:
            connection.close()
        if response.status != 200:
            raise StackError(f"GraphQL at {self.url}: {response.status}: {text.strip()}")
        answer = json.loads(text)
        if answer.get("errors"):
            raise StackError(f"GraphQL at {self.url}: {answer['errors'][0]['message']}")
        return answer["data"]

    def _connection(self) -> http.client.HTTPConnection:
        """To the published port, also where the domain's name does not lead to this machine."""
        host, port = self.address
        at = (LOCALHOST if host in ("0.0.0.0", "::") else host, port)  # noqa: S104 # any address
        if self.domain:
            return _HTTPSConnection(self.domain, port, at)
        return http.client.HTTPConnection(*at, timeout=HTTP_SECONDS)

    def launch(
        self,
        job: str,
        assets: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        location: str = "code_location",
        partition: str | None = None,
    ) -> str:
        """Launches a job, as the web UI does.

        Args:
            job: Its name; `__ASSET_JOB` for any selection of assets.
            assets: Only these assets of an asset job; all if none are named.
            config: The run's configuration.
            location: The code location that the job is in.
            partition: The key of the partition, for a job that has partitions.

        Returns:
            The run id.

        Raises:
            StackError: It was not launched.
        """
        selector = {
            "repositoryLocationName": location,
            "repositoryName": "__repository__",
            "jobName": job,
            "assetSelection": [{"path": [asset]} for asset in assets] or None,
        }
        params: dict[str, Any] = {"selector": selector, "runConfigData": config or {}}
        if partition:
            tags = [{"key": "dagster/partition", "value": partition}]
            params["executionMetadata"] = {"tags": tags}
        answer = self.graphql(LAUNCH, params=params)
        if answer["launchRun"]["__typename"] != "LaunchRunSuccess":
            raise StackError(f"{job} was not launched: {json.dumps(answer['launchRun'])}")
        return answer["launchRun"]["run"]["runId"]

    def services(self) -> dict[str, dict[str, Any]]:
        """The state of each service's container, by service, as `docker compose ps` tells it."""
        listing = self.compose("ps", "--all", "--format", "json").stdout
        return {row["Service"]: row for row in map(json.loads, listing.splitlines())}

    def run_containers(self, *, running_only: bool = False) -> dict[str, str]:
        """This stack's run containers: container id by run id."""
        listing = docker(
            "ps", "--no-trunc", "--format", f'{{{{.ID}}}} {{{{.Label "{RUN_LABEL}"}}}}',
            *([] if running_only else ["--all"]),
            "--filter", f"label={STACK_LABEL}={self.name}", "--filter", f"label={RUN_LABEL}",
        )  # fmt: skip
        return {run: container for container, run in map(str.split, listing.splitlines())}

    def problems(self) -> list[str]:
        """What is wrong with the stack, and what to do; empty when nothing is."""
        found: list[str] = []
        states = self.services()
        for service in self.config["services"]:
            state = states.get(service)
            if state is None:
                found.append(f"{service}: has no container: make up")
            elif state["State"] == "exited" and state["ExitCode"] == 0 and is_one_shot(state):
                continue
            elif state["State"] != "running":
                found.append(f"{service}: {state['State']}, exit status {state['ExitCode']}:"
                             f" {self.last_line(service) or 'make logs'}")  # fmt: skip
            elif state["Health"] not in ("healthy", ""):
                found.append(f"{service}: {state['Health']}: {self.health_output(state['ID'])}")
        if not found:
            found += self.location_errors()
        return found

    def location_errors(self) -> list[str]:
        """Code locations that do not load, with the first line of the error."""
        data = self.graphql(
            """{ workspaceOrError { ... on PythonError { message } ... on Workspace {
                 locationEntries { name locationOrLoadError { __typename
                   ... on PythonError { message errorChain { error { message } } } } } } } }"""
        )["workspaceOrError"]
        errors: list[str] = []
        for entry in data["locationEntries"]:
            error = entry["locationOrLoadError"]
            if error["__typename"] == "PythonError":
                chain = [error["message"]] + [e["error"]["message"] for e in error["errorChain"]]
                cause = next((m for m in reversed(chain) if m.strip()), "unknown").strip()
                errors.append(
                    f"code location {entry['name']} does not load: {cause.splitlines()[-1]}"
                    f" (the whole error: {self.ui_url}/deployment/locations): mend it, then make up"
                )
        return errors

    def last_line(self, service: str) -> str:
        """The last line a service wrote."""
        log = self.compose("logs", "--no-log-prefix", "--no-color", "--tail", "20", service)
        # Compose 2.26 writes "erase this line" before each, also to a pipe.
        lines = [line.strip() for line in log.stdout.replace("\x1b[2K", "").splitlines()]
        return next((line for line in reversed(lines) if line), "")

    def health_output(self, container: str) -> str:
        """What the last health check of a container said."""
        health = docker("inspect", "--format", "{{json .State.Health}}", container)
        state = cast("dict[str, Any]", json.loads(health) or {})
        checks: list[dict[str, str]] = state.get("Log", [])
        return checks[-1]["Output"].strip() if checks else "no health check has run yet"


class _HTTPSConnection(http.client.HTTPSConnection):
    """To an address, for a host of another name."""

    def __init__(self, host: str, port: int, at: tuple[str, int]) -> None:
        super().__init__(host, port, timeout=HTTP_SECONDS)
        self.at = at

    def connect(self) -> None:
        plain = socket.create_connection(self.at, self.timeout)
        self.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=self.host)


def basic(user: str, password: str) -> str:
    """The header that an API client signs in with."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def docker(*arguments: str) -> str:
    """Runs the docker client.

    Returns:
        What it wrote to stdout.

    Raises:
        StackError: It failed.
    """
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(f"docker {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


def is_one_shot(state: Mapping[str, Any]) -> bool:
    """Whether a service is meant to end: only those have no restart policy."""
    policy = docker("inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", state["ID"])
    return policy.strip() == "no"


def up(stack: Stack) -> None:
    """Builds what has changed, starts, and waits until everything is healthy."""
    refuse_taken_port(stack)
    say("building images (a minute the first time, a second when nothing has changed)")
    is_terminal = sys.stderr.isatty()
    built = stack.compose("build", check=False, show=is_terminal)
    if built.returncode:
        sys.stderr.write(printable(built.stderr or ""))
        raise StackError("an image could not be built: the reason is above")
    remove_switched_off(stack)
    say("starting, and waiting until every part is healthy")
    started = time.monotonic()
    done = stack.compose("up", "--detach", "--wait", "--remove-orphans", check=False)
    if done.returncode:
        problems = [problem for problem in stack.problems() if "has no container" not in problem]
        # What never started waits for what failed, and says nothing by itself.
        failed = [problem for problem in problems if ": created," not in problem]
        last = (done.stderr.strip().splitlines() or [""])[-1]
        if "address pool" in last:
            last += " (docs/operations.md, Several stacks on one machine)"
        raise StackError("not everything started: " + " | ".join(failed or problems or [last]))
    say(f"healthy after {time.monotonic() - started:.0f} s: {stack.ui_url} (make credentials)")
    if stack.address[0] not in (LOCALHOST, "::1") and not stack.domain:
        say(f"warning: published on {stack.address[0]} without TLS: whoever is on the way there can"
            " read the password; set DOMAIN, or put a proxy with TLS in front")  # fmt: skip
    errors = stack.location_errors()
    if errors:
        raise StackError(" | ".join(errors))


def remove_switched_off(stack: Stack) -> None:
    """Removes services of profiles that were on at the last start and are not any more."""
    everything = stack.with_all_profiles
    off = sorted(set(everything.services()) - set(stack.config["services"]))
    if off:
        say(f"removing what is switched off: {', '.join(off)}")
        everything.compose("rm", "--stop", "--force", *off)


def refuse_taken_port(stack: Stack) -> None:
    """Raises StackError when something else listens where the web UI is to be published."""
    edge = stack.services().get("edge")
    if edge and edge["State"] == "running":
        return
    host, port = stack.address
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StackError(
                f"port {port} on {host} cannot be used ({error.strerror}): stop what uses it, or"
                f" set HTTP_PORT (and BIND_ADDRESS) to something free, e.g. HTTP_PORT={port + 1}"
            ) from None


def down(stack: Stack, *, volumes: bool = False) -> None:
    """Stops the daemon, then the runs in flight, then the rest; data kept unless volumes."""
    stack.compose("stop", "daemon", check=False)
    in_flight = stack.run_containers(running_only=True)
    if in_flight:
        say(f"ending {len(in_flight)} runs in flight: {', '.join(in_flight)}")
        docker("stop", "--time", str(RUN_STOP_SECONDS), *in_flight.values())
    run_containers = stack.run_containers()
    if run_containers:
        docker("rm", "--force", *run_containers.values())
    everything = stack.with_all_profiles
    everything.compose("down", "--remove-orphans", *(["--volumes"] if volumes else []))
    say(f"{stack.name} is down, its data {'deleted' if volumes else 'kept'}")


def destroy(stack: Stack) -> None:
    """Deletes the stack and its data, after asking."""
    if os.environ.get("FORCE") != "1":
        if not sys.stdin.isatty():
            raise StackError("destroy deletes data and cannot ask here: FORCE=1 make destroy")
        answer = input(f"Delete all runs, logs and values of the stack {stack.name}? [y/N] ")
        if answer.strip().lower() not in ("y", "yes"):
            raise StackError("nothing was deleted")
    down(stack, volumes=True)


def status(stack: Stack) -> None:
    """Prints each part's health; raises StackError naming what is wrong."""
    states = stack.services()
    rows = [["part", "state", "health", "since"]]
    for service in stack.config["services"]:
        state = states.get(service)
        if state is None:
            rows.append([service, "absent", "", ""])
        else:
            done = state["State"] == "exited" and state["ExitCode"] == 0
            shown = "done" if done else state["State"]
            rows.append([service, shown, state["Health"], state["Status"]])
    rows.append(
        ["run containers", f"{len(stack.run_containers(running_only=True))} running", "", ""]
    )
    say(table(rows))
    if not states:
        raise StackError(f"the stack {stack.name} is not up: make up")
    problems = stack.problems()
    if problems:
        raise StackError(" | ".join(problems))
    print(f"\nAll well: {stack.ui_url}")


def logs(stack: Stack, run: str = "") -> None:
    """Prints the services' logs, or those of a run's container (a run id or its beginning)."""
    if not run:
        follow = ["--follow"] if os.environ.get("FOLLOW") == "1" else []
        show(stack.command("logs", "--no-color", "--tail", "200", *follow), stack)
        return
    found = [c for run_id, c in stack.run_containers().items() if run_id.startswith(run)]
    if len(found) != 1:
        raise StackError(
            f"{len(found) or 'no'} containers on this machine belong to run {run}: see the run's"
            f" page, {stack.ui_url}/runs, whose events and step logs outlive its container"
        )
    show(["docker", "logs", "--timestamps", found[0]], stack)


def show(command: Sequence[str], stack: Stack) -> None:
    """Runs a command whose output is user code's; to a terminal no control sequence gets through.

    Raises:
        StackError: It failed.
    """
    is_terminal = sys.stdout.isatty()
    with subprocess.Popen(
        command,
        cwd=stack.root,
        env=stack.environment,
        stdout=subprocess.PIPE if is_terminal else None,
        stderr=subprocess.STDOUT if is_terminal else None,
    ) as done:
        # One line at a time, for FOLLOW=1, and no longer than a terminal can bear.
        while done.stdout and (line := done.stdout.readline(MAX_LINE_BYTES)):
            # Compose 2.26 writes "erase this line" before each.
            text = line.decode(errors="replace").removeprefix("\x1b[2K")
            say(printable(text.removesuffix("\n")))
    if done.returncode:
        raise StackError(f"{' '.join(command[:3])}: exit status {done.returncode}")


def printable(text: str) -> str:
    r"""Text as a terminal may show it: what is not printable is written as `\x1b`."""
    return "".join(one if one.isprintable() or one in "\t\n" else ascii(one)[1:-1] for one in text)


def credentials(stack: Stack, user: str = OPERATOR) -> None:
    """Prints where and as whom to sign in."""
    password = stack.password_of(user)
    print(f"DAGSTER_URL={stack.url}\nDAGSTER_USER={user}\nDAGSTER_PASSWORD={password}")


def table(rows: Sequence[Sequence[str]]) -> str:
    """Lays rows of cells out in columns; the first row is the heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
             for row in rows]  # fmt: skip
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def say(line: str) -> None:
    """Tells the operator what is going on."""
    print(printable(line), flush=True)


VERBS = {
    "up": up,
    "down": down,
    "destroy": destroy,
    "status": status,
    "logs": logs,
    "credentials": credentials,
}


def main() -> None:
    """Exits with status 1 and one line when the verb could not be carried out."""
    verb, *arguments = sys.argv[1:]
    try:
        VERBS[verb](Stack(), *arguments)
    except StackError as error:
        sys.exit(printable(f"{verb}: {error}"))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
