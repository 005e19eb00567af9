#!/usr/bin/env python3
"""Prints the address of the package index that pip is configured with; nothing for the default one.

It reads pip's configuration files itself: a bare Debian has them where an administrator put them,
but no pip. Asking pip, where it is installed, takes half a second.
"""

from __future__ import annotations

import configparser
import os
import sys
from pathlib import Path


def configuration_files() -> list[Path]:
    """pip's configuration files, in the order in which pip reads them; a later one wins."""
    if os.environ.get("PIP_CONFIG_FILE") == os.devnull:
        return []
    home = Path.home()
    directories = os.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg"
    config_home = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    named = os.environ.get("PIP_CONFIG_FILE")
    return [
        *(Path(directory, "pip/pip.conf") for directory in directories.split(":")),
        Path("/etc/pip.conf"),
        home / ".pip/pip.conf",
        config_home / "pip/pip.conf",
        Path(sys.prefix, "pip.conf"),
        *([Path(named)] if named else []),
    ]


def index_url(files: list[Path]) -> str:
    """The index that `pip install` would use with these files.

    pip reads a file as a whole, and the section of the command wins over `global`.
    """
    settings = configparser.RawConfigParser(strict=False)
    settings.read(files, encoding="utf-8")
    for section in ("install", "global"):
        for option in ("index-url", "index_url"):
            if settings.has_option(section, option):
                return settings.get(section, option).strip()
    return ""


if __name__ == "__main__":
    print(index_url(configuration_files()))
