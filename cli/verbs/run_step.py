"""Execute a step of an earlier run again, in its image, with a debugger. Nothing is stored."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import ArgumentParser, Namespace

from cli import containers, runs
from cli.output import can_ask
from cli.stack import Stack, docker


def add(parser: ArgumentParser) -> None:
    """The arguments."""
    parser.add_argument("run", metavar="RUN", help="a run ID, or its beginning")
    parser.add_argument("step", metavar="STEP", help="the key of the step, as its events have it")


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError when the run has no container; otherwise exits with the step's status."""
    run_id, container = runs.container_of(stack, flags.run)
    made = json.loads(docker("inspect", container))[0]
    command = made["Config"]["Cmd"]
    told = json.loads(command[3])
    if "like" in told:  # a warm container: those of another run of this code
        command[3] = json.dumps({**json.loads(told["like"]), "pipeline_run_id": run_id})
    image = json.loads(docker("image", "inspect", made["Image"]))[0]
    # The image has the others, PATH among them.
    added = set(made["Config"]["Env"]) - set(image["Config"]["Env"])
    variables = dict(entry.split("=", 1) for entry in added)
    terminal = can_ask() and sys.stdout.isatty()
    command = containers.run_step(stack.name, made, variables, flags.step, terminal=terminal)
    done = subprocess.run(["docker", *command], env={**os.environ, **variables}, check=False)
    if done.returncode:
        sys.exit(done.returncode)
