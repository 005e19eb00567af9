"""The operator's command line, as the tests use it. No other file of the tests imports cli/."""

from cli import (
    builds,
    checks,
    cluster_deploys,
    cluster_secrets,
    commands,
    containers,
    contents,
    dotenv,
    health,
    locks,
    marks,
    outdated,
    piped,
    reference,
    settings,
    values,
)
from cli.__main__ import VERBS, main, name_of
from cli.client import FINAL, LAUNCH, RUN, Client, Endpoint, basic
from cli.commands import STACK_LABEL
from cli.doctor import Finding
from cli.errors import StackError
from cli.health import problems
from cli.output import ask
from cli.stack import OPERATOR, Stack, docker
from cli.verbs import rollback, rotate, secret
from cli.verbs.sizes import proposed

# Runs a verb; relative to a checkout.
COMMAND = ("./stack",)

__all__ = [
    "COMMAND",
    "FINAL",
    "LAUNCH",
    "OPERATOR",
    "RUN",
    "STACK_LABEL",
    "VERBS",
    "Client",
    "Endpoint",
    "Finding",
    "Stack",
    "StackError",
    "ask",
    "basic",
    "builds",
    "checks",
    "cluster_deploys",
    "cluster_secrets",
    "commands",
    "containers",
    "contents",
    "docker",
    "dotenv",
    "health",
    "locks",
    "main",
    "marks",
    "name_of",
    "outdated",
    "piped",
    "problems",
    "proposed",
    "reference",
    "rollback",
    "rotate",
    "secret",
    "settings",
    "values",
]
