"""Finds what is wrong with a stack and its machine: each finding with a remedy, the first first.

The checks of each module are generators: what they yield is wrong. A healthy stack yields nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


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
