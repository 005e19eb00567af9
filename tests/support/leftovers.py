"""Removes everything that belongs to a test stack, by what the Docker engine says."""

import subprocess

from support.cli import STACK_LABEL, docker

PROJECT = "com.docker.compose.project"
FORCE = {
    "container": ["--force", "--volumes"],
    "network": [],
    "volume": ["--force"],
    "image": ["--force"],
}


def listed(kind, *filters):
    """The ids or names of some of the engine's objects."""
    what = {"container": ["--all"], "image": [], "network": [], "volume": []}[kind]
    command = kind, "ls", "--quiet", *what, *(f"--filter={one}" for one in filters)
    return set(docker(*command).split())


def containers_of(name):
    """Containers of a stack: of its services, its runs, and those that tests have made beside."""
    found = listed("container", f"label={PROJECT}={name}")
    found |= listed("container", f"label={STACK_LABEL}={name}")
    for image in listed("image", f"label={PROJECT}={name}"):
        found |= listed("container", f"ancestor={image}")
    return found


def volumes_of(name):
    """Volumes of a stack; one that a test's own container made has no label."""
    return {volume for volume in listed("volume") if volume.startswith(f"{name}_")}


def left_of(name):
    """What there is of a stack, by kind."""
    return {
        "container": containers_of(name),
        "network": listed("network", f"label={PROJECT}={name}"),
        "volume": volumes_of(name),
        "image": listed("image", f"label={PROJECT}={name}"),
    }


def remove(name):
    """Removes a stack and its images; their layers stay in the build cache.

    Returns:
        What the engine says of what it does not remove.
    """
    complaints = []
    # More than once: another process may be about to make or to remove something.
    for _ in range(3):
        left = left_of(name)
        if not any(left.values()):
            return []
        complaints = []
        for kind, objects in left.items():
            command = ["docker", kind, "rm", *FORCE[kind], *objects]
            if objects:
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                complaints += done.stderr.splitlines() if done.returncode else []
    return complaints
