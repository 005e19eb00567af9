"""Finds the active code locations: workspace.yaml, and one more file for each active profile.

The gap: Dagster reads a fixed list of workspace files. It shows a code location as failed if its
container does not run, so the list must depend on COMPOSE_PROFILES. The guard reads the same files:
a run container may use only the image of a code location in these files. A workspace file also
cannot name a code location after a folder. This module could be deleted if a workspace file could
contain code locations that are switched off, and if Compose could take a path apart.
"""

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import yaml

# The workspace file of the profile `name` is locations/name/workspace.yaml.
LOCATIONS = Path("locations")


def workspace_files(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The workspace files of this stack, relative to the working directory.

    Args:
        environment: COMPOSE_PROFILES lists the active profiles, separated by commas; `*` means all.
    """
    active = {name.strip() for name in environment.get("COMPOSE_PROFILES", "").split(",")}
    optional = sorted(LOCATIONS.glob("*/workspace.yaml"))
    return [
        "workspace.yaml",
        *(str(file) for file in optional if file.parent.name in active or "*" in active),
    ]


def name_code_location(environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets CODE_LOCATION, which workspace.yaml reads, to the name of your project's folder.

    Dockerfile.dagster sets the default, for commands that run beside web server and daemon.

    Args:
        environment: CODE is the folder's path, on the host.
    """
    folder = Path(environment.get("CODE", "")).name
    environment["CODE_LOCATION"] = folder or "code_location"


def code_servers(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The Compose services that serve the code locations: the hosts in the workspace files."""
    entries: list[dict[str, Any]] = []
    for file in workspace_files(environment):
        entries += yaml.safe_load(Path(file).read_text())["load_from"]
    return [entry["grpc_server"]["host"] for entry in entries if "grpc_server" in entry]
