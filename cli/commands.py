"""The command lines of docker and Compose, as lists of words. This module runs none of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# What set-up found on this machine, then the operator's own settings. Later files win.
ENV_FILES = (".machine.env", ".env")
# How Compose and the run launcher (dagster.yaml, labels) mark what belongs to a stack.
PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
NETWORK_LABEL = "com.docker.compose.network"
STACK_LABEL = "dagster/stack"
RUN_LABEL, JOB_LABEL = "dagster/run_id", "dagster/job_name"
# In the place of the job of a run container that was made before its run (launcher/warm.py).
WARM = "warm"
# Of containers in which a step runs again. They are no run containers.
STEP_LABEL = "dagster/run_step_of"
# Where the files that runs write are mounted (control_plane/code_server/put_in.py, run_step.py).
DATA, DATA_OF_RUNS = "/var/lib/dagster/data", "/var/lib/dagster/data-of-runs"


def compose(root: Path, *arguments: str) -> list[str]:
    """Compose, with the settings of this machine and of the operator."""
    files = [name for name in ENV_FILES if (root / name).is_file()]
    return ["docker", "compose", *(f"--env-file={name}" for name in files), *arguments]


def start(*services: str) -> list[str]:
    """For Compose: starts services (by default all) without a build, until they are healthy."""
    orphans = [] if services else ["--remove-orphans"]
    return ["up", "--detach", "--wait", "--no-build", *orphans, *services]


def down(*, volumes: bool = False) -> list[str]:
    """For Compose: removes containers and networks, and the volumes if asked."""
    return ["down", "--remove-orphans", *(["--volumes"] if volumes else [])]


def logs(services: Iterable[str], lines: int = 200, *, follow: bool = False) -> list[str]:
    """For Compose: logs of services. Without names, Compose omits those with `attach: false`."""
    options = ["--no-color", f"--tail={lines}", *(["--follow"] if follow else [])]
    return ["logs", *options, *services]


def run_containers(stack: str, *, running_only: bool = False) -> list[str]:
    """For docker: lists a stack's run containers, one `container ID run-ID job` a line."""
    labels = (f"label={STACK_LABEL}={stack}", f"label={RUN_LABEL}")
    shown = ["{{.ID}}", *(f'{{{{.Label "{label}"}}}}' for label in (RUN_LABEL, JOB_LABEL))]
    return [
        "ps", "--no-trunc", "--format", " ".join(shown),
        *([] if running_only else ["--all"]), *(f"--filter={label}" for label in labels),
    ]  # fmt: skip


def volumes(stack: str) -> list[str]:
    """For docker: lists the names of a stack's volumes."""
    return ["volume", "ls", "--quiet", f"--filter=label={PROJECT_LABEL}={stack}"]


def images(stack: str, *, earlier_only: bool = False) -> list[str]:
    """For docker: lists the images that Compose built for a stack.

    A line is `name:tag` and ID. Earlier images have lost their name to a newer one: of them, a line
    is the ID.
    """
    label = f"--filter=label={PROJECT_LABEL}={stack}"
    if earlier_only:
        return ["image", "ls", "--quiet", "--no-trunc", label, "--filter=dangling=true"]
    return ["image", "ls", label, "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"]


def built_for(images: Iterable[str]) -> list[str]:
    """For docker: when each image got its name, its ID, and the service that it was built for."""
    tagged = "{{json .Metadata.LastTagTime}}"
    columns = f'{tagged} {{{{.Id}}}} {{{{index .Config.Labels "{SERVICE_LABEL}"}}}}'
    return ["image", "inspect", "--format", columns, *images]


def networks(stack: str) -> list[str]:
    """For docker: lists a stack's networks, one `name` and `name in the Compose file` a line."""
    columns = f'{{{{.Name}}}} {{{{.Label "{NETWORK_LABEL}"}}}}'
    return ["network", "ls", f"--filter=label={PROJECT_LABEL}={stack}", "--format", columns]


def in_web_server(command: Sequence[str], location: str, *, terminal: bool) -> list[str]:
    """For Compose: runs a command in the web server, which has the instance and the workspace.

    Args:
        command: The command.
        location: The name of the code location of your project, for workspace.yaml.
        terminal: Whether it runs on one.
    """
    named = f"--env=CODE_LOCATION={location}"
    return ["exec", *([] if terminal else ["--no-TTY"]), named, "webserver", *command]


def read_value(volume: str, image: str, path: str) -> list[str]:
    """For docker: prints a pickled value of the I/O storage as JSON, without a network."""
    program = f"import json, pickle; print(json.dumps(pickle.load(open('/storage/{path}', 'rb'))))"
    mount = f"--volume={volume}:/storage:ro"
    return ["run", "--rm", "--network=none", mount, image, "python", "-c", program]


def step_containers(stack: str) -> list[str]:
    """For docker: lists the IDs of containers in which steps run again."""
    return ["ps", "--all", "--quiet", f"--filter=label={STEP_LABEL}={stack}"]


def run_step(
    stack: str, made: Mapping[str, Any], variables: Iterable[str], step: str, *, terminal: bool
) -> list[str]:
    """For docker: executes a step of a run again, in a container like the run's.

    Its volumes are read-only. In place of the data folders it has an empty volume, which goes with
    the container.

    Args:
        stack: The stack's name.
        made: The run's container, as `docker inspect` describes it.
        variables: The names of the environment variables that the image does not have.
        step: The key of the step.
        terminal: Whether it runs on one.
    """
    host: dict[str, Any] = made["HostConfig"]
    tmpfs: dict[str, str] = host["Tmpfs"] or {}
    options: list[str] = host["SecurityOpt"] or []
    limits = {"--memory": "Memory", "--pids-limit": "PidsLimit", "--cpu-shares": "CpuShares"}
    paths = [bind.split(":")[:2] for bind in host["Binds"]]
    sources = {DATA_OF_RUNS if path == DATA else path: volume for volume, path in paths}
    module = "control_plane.code_server.run_step"
    return [
        "run", "--rm", "--interactive", *(["--tty"] if terminal else []), "--init", "--read-only",
        f"--label={STEP_LABEL}={stack}", f"--network={host['NetworkMode']}", "--cap-drop=ALL",
        *(f"--security-opt={option}" for option in options),
        *(f"{flag}={host[name]}" for flag, name in limits.items() if host.get(name)),
        *(f"--tmpfs={path}:{limits}" for path, limits in tmpfs.items()),
        *(f"--volume={volume}:{path}:ro" for path, volume in sources.items()),
        f"--volume={DATA}",
        *(f"--env={name}" for name in variables),
        made["Image"], "python", "-m", module, made["Config"]["Cmd"][3], step,
    ]  # fmt: skip
