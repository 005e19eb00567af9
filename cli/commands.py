"""The command lines of docker and Compose, as lists of words. This module runs none of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

# What set-up found on this machine, then the operator's own settings. Later files win.
ENV_FILES = (".machine.env", ".env")
# How Compose and the run launcher (dagster.yaml, labels) mark what belongs to a stack.
PROJECT_LABEL = "com.docker.compose.project"
SERVICE_LABEL = "com.docker.compose.service"
ONE_OFF_LABEL = "com.docker.compose.oneoff"
ONE_OFF = f"{ONE_OFF_LABEL}=True"
FOLDER_LABEL = "com.docker.compose.project.working_dir"
NETWORK_LABEL, VOLUME_LABEL = "com.docker.compose.network", "com.docker.compose.volume"
STACK_LABEL = "dagster/stack"
RUN_LABEL, JOB_LABEL = "dagster/run_id", "dagster/job_name"
# In the place of the job of a run container that was made before its run (launcher/warm.py).
WARM = "warm"
# Of containers in which a step runs again (no run containers), or that write or read a backup.
STEP_LABEL = "dagster/run_step_of"
BACKUP_LABEL = "dagster/backup_of"


def compose(root: Path, *arguments: str) -> list[str]:
    """Compose, with the settings of this machine and of the operator."""
    files = [name for name in ENV_FILES if (root / name).is_file()]
    return ["docker", "compose", *(f"--env-file={name}" for name in files), *arguments]


def start(*services: str) -> list[str]:
    """For Compose: starts services (by default all) without a build, until they are healthy.

    Args:
        services: Their names, after further options if any.
    """
    orphans = [] if services else ["--remove-orphans"]
    return ["up", "--detach", "--wait", "--no-build", *orphans, *services]


def beside(service: str) -> list[str]:
    """For Compose: starts a second container of a service, until it is healthy.

    Not with --no-deps: the next `up` would replace a container made so, and all that depend on it.
    """
    options = ["--no-build", "--no-recreate", f"--scale={service}=2"]
    return ["up", "--detach", "--wait", *options, service]


def service_containers(stack: str, service: str, *, one_off: bool = False) -> list[str]:
    """For docker: lists the IDs of the containers of a service that run, or of `compose run`."""
    which = f"{ONE_OFF_LABEL}={one_off}"
    labels = (f"{PROJECT_LABEL}={stack}", f"{SERVICE_LABEL}={service}", which)
    return ["ps", "--quiet", "--no-trunc", *(f"--filter=label={label}" for label in labels)]


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


def prepare(*command: str) -> list[str]:
    """For Compose: runs a command in the container of `prepare`, which has all credentials."""
    return ["run", "--rm", "--no-TTY", "--no-deps", "prepare", *command]


def containers_of(stack: str, label: str) -> list[str]:
    """For docker: lists the IDs of a stack's containers with a label such as STEP_LABEL."""
    return ["ps", "--all", "--quiet", f"--filter=label={label}={stack}"]


def create_volume(stack: str, name: str) -> list[str]:
    """For docker: creates a volume of a stack, with the labels that Compose gives it."""
    labels = f"--label={PROJECT_LABEL}={stack}", f"--label={VOLUME_LABEL}={name}"
    return ["volume", "create", *labels, f"{stack}_{name}"]
