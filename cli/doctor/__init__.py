"""Finds what is wrong with a stack and its machine: each finding with a remedy, the first first.

The checks of each module are generators: what they yield is wrong. A healthy stack yields nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from cli.stack import Stack

LONGEST = 300


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

    def cut(self) -> Finding:
        """Without what follows the first line: an error can have pages."""
        first = self.what.strip().partition("\n")[0]
        short = first if len(first) <= LONGEST else f"{first[: LONGEST - 3]}..."
        return replace(self, what=short)


class Examined(Stack):
    """A stack whose services are listed once: ten checks ask, and Compose takes half a second."""

    def services(self) -> dict[str, dict[str, Any]]:
        """As they were at first."""
        return self._services

    @cached_property
    def _services(self) -> dict[str, dict[str, Any]]:
        return super().services()
