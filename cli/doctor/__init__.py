"""Finds what is wrong with a stack and its machine: each finding with a remedy, the first first.

The checks of each module are generators: what they yield is wrong. A healthy stack yields nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cli.errors import StackError
from cli.stack import Stack


@dataclass(frozen=True)
class Finding:
    """Something that is wrong.

    Attributes:
        part: What it is about: a service, a setting, the machine.
        what: What is wrong, in words.
        remedy: What to do.
    """

    part: str
    what: str
    remedy: str


Check = Callable[[Stack], Iterator[Finding]]


def examine(stack: Stack) -> list[Finding]:
    """All findings, in the order in which to mend them.

    A check that cannot be made is a finding as well: the reason is usually that of an earlier one.
    """
    from cli.doctor import engine, files, runs, services

    found: list[Finding] = []
    # Without an engine, or with settings that Compose refuses, nothing else can be asked.
    for check in (*engine.FIRST, *files.CHECKS):
        found += _of(check, stack)
    if found:
        return found
    for check in (*engine.CHECKS, *services.CHECKS):
        found += _of(check, stack)
    if services.answers(stack):
        for check in runs.CHECKS:
            found += _of(check, stack)
    return found


def _of(check: Check, stack: Stack) -> list[Finding]:
    name = check.__name__.replace("_", " ")
    try:
        return list(check(stack))
    except StackError as error:
        return [Finding(name, f"this could not be checked: {error}", "mend what is above first")]
