"""Finds the module with a project's definitions, as `dg dev` and `dagster dev` find it.

The gap: `dagster api grpc` needs the name of the module on its command line, so an image could
serve one project only. This module could be deleted if the command read pyproject.toml.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

# Where a project has its packages, in the order in which Python looks for them.
SOURCES = ("src", ".")
DEFINITIONS = "definitions.py"


class NoDefinitions(Exception):
    """A project does not say where its definitions are, or they are not there."""


def definitions_module(root: Path) -> str:
    """The module with the definitions of a project.

    Args:
        root: The project's folder.

    Returns:
        What pyproject.toml or dg.toml names: [tool.dg.project] or [tool.dagster]. If they name
        nothing, the only package with a file definitions.py, or definitions.py itself.

    Raises:
        NoDefinitions: There is none, or more than one. The message says what to add.
    """
    named = _named(root)
    if named:
        if not _is_there(root, named):
            raise NoDefinitions(f"pyproject.toml names the module {named}, which is not there")
        return named
    places = [root / source for source in SOURCES]
    packages = [file for place in places for file in place.glob(f"*/{DEFINITIONS}")]
    # src/definitions.py is a module in src/, and no package of the root.
    files = [file for file in packages if file.parent not in places] or [
        place / DEFINITIONS for place in places if (place / DEFINITIONS).is_file()
    ]
    found = sorted({_module(file, places) for file in files})
    if len(found) == 1:
        return found[0]
    what = f"several packages have one ({', '.join(found)})" if found else "no package has one"
    raise NoDefinitions(
        f"no {DEFINITIONS} to load: {what}. Name the module in pyproject.toml:"
        ' [tool.dagster] module_name = "your_package.definitions"'
    )


def _named(root: Path) -> str | None:
    """What the project's files name."""
    tools = _table(_toml(root / "pyproject.toml"), "tool")
    for dg in (_table(tools, "dg"), _toml(root / "dg.toml")):
        project = _table(dg, "project")
        if project.get("root_module"):
            default = f"{project['root_module']}.{Path(DEFINITIONS).stem}"
            return str(project.get("code_location_target_module") or default)
    dagster = _table(tools, "dagster")
    modules = cast("list[dict[str, Any]]", dagster.get("modules", []))
    if len(modules) > 1:
        raise NoDefinitions("[tool.dagster] names several modules: add a code location for each")
    name = dagster.get("module_name") or (modules and modules[0].get("name"))
    return str(name) if name else None


def _toml(file: Path) -> Mapping[str, Any]:
    """The content of a TOML file, or nothing."""
    try:
        return tomllib.loads(file.read_text("utf-8-sig")) if file.is_file() else {}
    except ValueError as error:
        raise NoDefinitions(f"{file.name} cannot be read: {error}") from None


def _table(of: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = of.get(name)
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


def _module(file: Path, places: list[Path]) -> str:
    source = next(place for place in places if file.is_relative_to(place))
    return ".".join(file.relative_to(source).with_suffix("").parts)


def _is_there(root: Path, module: str) -> bool:
    path = Path(*module.split("."))
    places = [root / source / path for source in SOURCES]
    return any(place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()
               for place in places)  # fmt: skip
