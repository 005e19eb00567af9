"""Set new passwords for the web UI and for all database roles, while runs go on."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from cli import commands, locks, marks
from cli.output import say
from cli.stack import Stack

STATEMENTS = "/run/postgres-credentials/passwords.sql"


def add(parser: ArgumentParser) -> None:
    """It has no flags."""
    del parser


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError when not all have their new passwords: the same command repairs it."""
    del flags
    marks.refuse_down(stack, "postgres")
    with locks.alone(stack, "rotate"):
        marks.put(stack, marks.ROTATING)
        # It writes the files of all clients. Who connects now waits for what follows.
        stack.compose(*commands.prepare("prepare", "rotate"))
        # Postgres logs failed statements, and these contain passwords.
        quiet = "--env=PGOPTIONS=-c log_min_error_statement=panic"
        client = (
            "psql",
            "--username=postgres",
            "--dbname=dagster",
            "--quiet",
            "--single-transaction",
        )
        options = "--set=ON_ERROR_STOP=1", f"--file={STATEMENTS}"
        stack.compose("exec", "--no-TTY", quiet, "postgres", *client, *options)
        stack.compose("exec", "--no-TTY", "postgres", "is-healthy")
        stack.compose("restart", "sign_in")
        # Until it answers, the edge answers 502.
        stack.compose(*commands.start("--no-deps", "--no-recreate", "sign_in"))
        marks.remove(stack, marks.ROTATING)
    say("all passwords are new, and all users of the web UI are signed out (make credentials)")
