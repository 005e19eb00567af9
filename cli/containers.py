"""The command lines of containers that a verb starts, as lists of words. It runs none of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cli.commands import BACKUP_LABEL, STEP_LABEL

# What `secret` exits with. Docker can lose the last words of a container that ends at once.
NO_SECRET = 44
# Where the files that runs write are mounted (control_plane/code_server/put_in.py, run_step.py).
DATA, DATA_OF_RUNS = "/var/lib/dagster/data", "/var/lib/dagster/data-of-runs"


def read_value(volume: str, image: str, path: str) -> list[str]:
    """For docker: prints a pickled value of the I/O storage as JSON, without a network."""
    program = f"import json, pickle; print(json.dumps(pickle.load(open('/storage/{path}', 'rb'))))"
    mount = f"--volume={volume}:/storage:ro"
    return ["run", "--rm", "--network=none", mount, image, "python", "-c", program]


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


def secret(stack: str, service: str, image: str, name: str, *, remove: bool) -> list[str]:
    """For docker: stores what is on stdin as a secret of a code location, or removes the secret."""
    folder = "/run/dagster-settings/secrets"  # control_plane/code_server/hand_over.py
    keep = f'install -d -m 0755 {folder} && install -m 0400 -o 10001 /dev/stdin "{folder}/.$0.new"'
    removal = f'test -e "{folder}/$0" || exit {NO_SECRET}; rm "{folder}/$0"'
    script = removal if remove else f'{keep} && mv "{folder}/.$0.new" "{folder}/$0"'
    return [
        "run", "--rm", "--interactive", "--network=none", "--user=0:0", "--cap-drop=ALL",
        "--cap-add=CHOWN", "--cap-add=DAC_OVERRIDE", "--cap-add=FOWNER", "--entrypoint=sh",
        f"--volume={stack}_{service}-settings:/run/dagster-settings", image, "-euc", script, name,
    ]  # fmt: skip


def database_of(stack: str) -> list[str]:
    """Options for docker: a container of `backup` reaches the stack's database."""
    owner = f"--volume={stack}_owner-credentials:/run/dagster-credentials:ro"
    return [f"--network={stack}_db", owner]


def backup(
    stack: str, image: str, words: Sequence[str], *, volumes: Mapping[str, str],
    files: Mapping[str, Path], variables: Sequence[str] = (), writable: bool = False,
    database: Sequence[str] = (),
) -> list[str]:  # fmt: skip
    """For docker: writes a backup to stdout, or reads one from stdin.

    Args:
        stack: The stack's name.
        image: The image of the service `backup`.
        words: The arguments of parts/backup/run.sh.
        volumes: The engine's names of the stack's volumes by those in the Compose file.
        files: Files on this machine by their paths in the container.
        variables: Further environment variables.
        writable: Whether it may write into the volumes.
        database: Options by which it reaches the database.
    """
    rights = ["CHOWN", "DAC_OVERRIDE", "FOWNER"] if writable else ["DAC_READ_SEARCH"]
    access = "" if writable else ":ro"
    return [
        # What it writes must not go to the engine's logs as well.
        "run", "--rm", "--interactive", "--log-driver=none", "--init", "--read-only",
        "--tmpfs=/tmp",
        "--volume=/scratch", f"--label={BACKUP_LABEL}={stack}", "--user=0:0",
        "--security-opt=no-new-privileges",
        "--cap-drop=ALL", *(f"--cap-add={one}" for one in rights),
        *(database or ["--network=none"]),
        *(f"--volume={one}:/volumes/{name}{access}" for name, one in volumes.items()),
        *(f"--volume={file}:{path}:ro" for path, file in files.items()),
        *(f"--env={one}" for one in variables), image, *words,
    ]  # fmt: skip
