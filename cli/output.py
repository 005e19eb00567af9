"""Prints lines and tables for the operator, without control sequences."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cli.errors import StackError

MAX_LINE_BYTES = 64 * 1024


def printable(text: str) -> str:
    r"""Text that is safe on a terminal: a control character is written as text, such as `\x1b`."""
    return "".join(one if one.isprintable() or one in "\t\n" else ascii(one)[1:-1] for one in text)


def say(line: str) -> None:
    """Prints what an operator asked for."""
    print(printable(line), flush=True)


def note(line: str) -> None:
    """Reports progress or a warning on stderr."""
    print(printable(line), file=sys.stderr, flush=True)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Lays rows of cells out in columns; the first row is the heading."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
             for row in rows]  # fmt: skip
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def ask(question: str) -> bool:
    """Asks a question on the terminal. Only `y` and `yes` mean yes."""
    try:
        return input(printable(f"{question} [y/N] ")).strip().lower() in ("y", "yes")
    except EOFError:
        return False


def can_ask() -> bool:
    """Whether somebody answers: stdin is a terminal, and not closed."""
    return bool(sys.stdin and sys.stdin.isatty())


def show(command: Sequence[str], root: Path, environment: Mapping[str, str]) -> None:
    """Runs a command whose output comes from user code, and shows it.

    On a terminal no control sequence gets through.

    Raises:
        StackError: It failed.
    """
    is_terminal = sys.stdout.isatty()
    with subprocess.Popen(
        command,
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE if is_terminal else None,
        stderr=subprocess.STDOUT if is_terminal else None,
    ) as done:
        # Line by line, because the output may never end. A line has at most MAX_LINE_BYTES.
        while done.stdout and (line := done.stdout.readline(MAX_LINE_BYTES)):
            # Compose 2.26 writes "erase this line" before each.
            text = line.decode(errors="replace").removeprefix("\x1b[2K")
            say(text.removesuffix("\n"))
    if done.returncode:
        raise StackError(f"{' '.join(command[:3])}: exit status {done.returncode}")
