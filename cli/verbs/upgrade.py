"""Back up, get the newest commits, build and start them, and check the stack."""

from __future__ import annotations

import subprocess
from argparse import ArgumentParser, Namespace

from cli.errors import StackError
from cli.output import note, say
from cli.stack import Stack
from cli.verbs import backup


def add(parser: ArgumentParser) -> None:
    """The flags."""
    backup.add(parser)
    what = "what to check out (default: `git pull`)"
    parser.add_argument("--revision", metavar="REVISION", help=what)


def run(stack: Stack, flags: Namespace) -> None:
    """Raises StackError with the command that goes back."""
    if git(stack, "status", "--porcelain", "--untracked-files=no"):
        raise StackError("there are changes that are not committed: commit them first (git status)")
    before = git(stack, "rev-parse", "HEAD")
    # By the version that runs: it can restore this file.
    file = backup.make(stack, flags)
    back = f"git checkout {before[:12]} && ./stack restore {file} --replace"
    say(f"to go back: {back}")
    pull = ("checkout", "--quiet", flags.revision) if flags.revision else ("pull", "--no-rebase")
    try:
        git(stack, *pull)
    except StackError:
        subprocess.run(
            ["git", "merge", "--abort"], cwd=stack.root, capture_output=True, check=False
        )
        raise
    say(f"from {before[:12]} to {git(stack, 'rev-parse', 'HEAD')[:12]}")
    # By the version that came.
    up = subprocess.run(["./stack", "up"], cwd=stack.root, env=stack.environment, check=False)
    if up.returncode:
        raise StackError(f"the reason is above. To go back: {back}")


def git(stack: Stack, *words: str) -> str:
    """Runs git; returns what it said, or raises StackError with its reason."""
    done = subprocess.run(
        ["git", *words], cwd=stack.root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        note(done.stderr.strip())
        raise StackError(f"git {words[0]} failed: nothing was replaced")
    return done.stdout.strip()
