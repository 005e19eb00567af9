"""Reads stores.toml."""

import tomllib
from pathlib import Path
from typing import Any

SETTINGS = Path(__file__).parents[4] / "stores.toml"


def settings() -> dict[str, Any]:
    return tomllib.loads(SETTINGS.read_text())
