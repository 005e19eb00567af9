"""Reads the names in .env, and finds those that nothing uses."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

NAME = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_.]*)\s*[=:]\s*(.*)")
SETTING = re.compile(r"#?([A-Z_]+)=")
# Compose, the docker client and our build read these as well.
OTHERS = re.compile(r"(DOCKER|BUILDKIT|BUILDX)_\w+|(?i:(https?|no|all)_proxy)")
COMPOSE = tuple(f"COMPOSE_{name}" for name in (
    "ANSI", "BAKE", "CONVERT_WINDOWS_PATHS", "DISABLE_ENV_FILE", "ENV_FILES", "EXPERIMENTAL",
    "FILE",
    "HTTP_TIMEOUT", "IGNORE_ORPHANS", "MENU", "PARALLEL_LIMIT", "PATH_SEPARATOR", "PROGRESS",
    "PROJECT_DIRECTORY", "PROJECT_NAME", "REMOVE_ORPHANS", "STATUS_STDOUT",
))  # fmt: skip
# How alike two names are that are probably the same: HTP_PORT and HTTP_PORT are 0.94.
ALIKE = 0.8
# The operator's files. A name that is in one of them is in use.
USERS_FILES = ("dagster.yaml", "docker-compose.override.yml", "code_location", "locations")


def read(text: str) -> dict[str, str]:
    """The names in a .env file, with simplified values.

    Compose reads the values by itself. This function does not replace variables in values, and
    reads only the first line of a quoted value.
    """
    return dict(_pairs(text))


def twice(folder: Path) -> list[str]:
    """The names that the .env of a folder sets more than once: Compose takes the last value."""
    path = folder / ".env"
    text = path.read_text(errors="replace") if path.is_file() else ""
    counted = Counter(name for name, _ in _pairs(text))
    return [name for name, count in counted.items() if count > 1]


def _pairs(text: str) -> Iterable[tuple[str, str]]:
    inside = ""  # the quote that a value of several lines ends with
    for line in text.removeprefix("\ufeff").split("\n"):
        if inside:
            inside = "" if line.rstrip().endswith(inside) else inside
            continue
        match = NAME.match(line)
        if not match:
            continue
        value = match[2].strip()
        quote = value[:1] if value[:1] in ("'", '"') else ""
        if quote and quote not in value[1:]:
            inside = quote
        yield match[1], value.strip("'\"") if quote else re.split(r"\s#", value)[0].strip()


def of(folder: Path) -> dict[str, str]:
    """The names in the .env of a folder with simplified values; none if it has no such file."""
    path = folder / ".env"
    return read(path.read_text(errors="replace")) if path.is_file() else {}


def described(root: Path) -> list[tuple[list[str], str]]:
    """The settings in .env.example: the names of each paragraph, and its text."""
    found: list[tuple[list[str], str]] = []
    for paragraph in (root / ".env.example").read_text().split("\n\n"):
        text: list[str] = []
        names: list[str] = []
        for line in paragraph.splitlines():
            setting = SETTING.match(line)
            if setting:
                names.append(setting[1])
            else:
                if names:
                    found.append((names, " ".join(text)))
                    text, names = [], []
                text.append(line.removeprefix("# "))
        if names:
            found.append((names, " ".join(text)))
    return found


def settings(root: Path) -> list[str]:
    """The names of all settings."""
    return [name for names, _ in described(root) for name in names]


def unread(root: Path, names: Iterable[str]) -> dict[str, str]:
    """Names that no file of the operator contains, with the nearest setting or an empty string.

    Args:
        root: The folder with .env.example.
        names: The names in .env.
    """
    known = [*settings(root), *COMPOSE]
    suspects = [name for name in names if name not in known and not OTHERS.fullmatch(name)]
    if not suspects:
        return {}
    text = "\n".join(file.read_text(errors="replace") for file in _users_files(root))
    return {
        name: nearest(name, known)
        for name in suspects
        if not re.search(rf"\b{re.escape(name)}\b", text)
    }


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is most similar, or an empty string if none is similar enough."""
    by_case = {one.upper(): one for one in known}
    alike = difflib.get_close_matches(name.upper(), list(by_case), 1, ALIKE)
    return by_case[alike[0]] if alike else ""


def _users_files(root: Path) -> Iterable[Path]:
    for name in USERS_FILES:
        path = root / name
        files = path.rglob("*") if path.is_dir() else [path]
        yield from (file for file in files if file.is_file() and file.suffix != ".pyc")
