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
    """The files of pip, in the order in which pip reads them; a later one wins."""
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


class Settings(configparser.RawConfigParser):
    """Settings of several files; pip spells their names with `-` or `_`."""

    def optionxform(self, optionstr: str) -> str:
        """The one spelling of a setting's name."""
        return optionstr.lower().replace("_", "-")


def index_url(files: list[Path]) -> str:
    """The index that `pip install` uses with these files: its own section wins over `global`."""
    settings = Settings(strict=False)
    settings.read(files, encoding="utf-8")
    sections = (one for one in ("install", "global") if settings.has_option(one, "index-url"))
    return next((settings.get(one, "index-url").strip() for one in sections), "")


if __name__ == "__main__":
    print(index_url(configuration_files()))
