"""Runs containers that read a file on stdin, or write one to stdout."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from cli import age
from cli.errors import StackError
from cli.output import note
from cli.stack import Stack

SECONDS_BETWEEN_NOTES = 15
# Its last line, after those of the program that it executed.
OF_KUBECTL = "command terminated with exit code"


def run(command: Sequence[str], source: IO[bytes] | None, out: IO[bytes] | None) -> bytes:
    """Runs a container; returns its output if it is not for a file, or raises StackError."""
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(
            ["docker", *command], stdin=source or subprocess.DEVNULL,
            stdout=out or subprocess.PIPE, stderr=errors,
        ) as running:  # fmt: skip
            while True:
                try:
                    said, _ = running.communicate(timeout=SECONDS_BETWEEN_NOTES)
                    break
                except subprocess.TimeoutExpired:
                    size = f": {os.fstat(out.fileno()).st_size >> 20} MiB" if out else ""
                    note(f"still at it{size}")
        if running.returncode:
            errors.seek(0)
            raise StackError(last_line(errors.read()))
    return said or b""


def last_line(said: bytes) -> str:
    """The reason in what a container wrote. That of age comes before that of its reader."""
    lines = [line for line in said.decode(errors="replace").strip().splitlines()
             if not line.startswith(OF_KUBECTL)] or ["it said nothing"]  # fmt: skip
    by_age = [age.reason(line) for line in lines if line.startswith(age.ERROR)]
    return (by_age or lines)[-1]


@contextmanager
def into(command: Sequence[str], stack: Stack) -> Generator[IO[bytes]]:
    """The stdin of a command of Compose.

    Raises:
        StackError: It failed. Its reason comes before that of whoever writes to it.
    """
    with tempfile.TemporaryFile() as errors:
        failed: StackError | None = None
        with subprocess.Popen(
            command, cwd=stack.root, env=stack.environment, stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL, stderr=errors,
        ) as running:  # fmt: skip
            assert running.stdin  # noqa: S101 # for the type checker
            try:
                yield running.stdin
            except StackError as error:
                failed = error
        if running.returncode:
            errors.seek(0)
            raise StackError(last_line(errors.read()))
        if failed:
            raise failed


@contextmanager
def complete(target: Path) -> Generator[IO[bytes]]:
    """A new file for the operator alone. It has its name when it is complete."""
    partial = target.with_name(f".{target.name}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            yield out
            os.fsync(out.fileno())
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)
