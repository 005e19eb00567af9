"""Finds definitions that a project contains, and that Dagster does not serve.

The gap: of a file below defs/ that has a function with @definitions, or a Definitions object,
Dagster takes only what that returns. Jobs, schedules and assets beside it are dropped without a
word (PythonFileComponent.build_defs). This module could be deleted if Dagster said so.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from dagster import (
    AssetChecksDefinition,
    AssetsDefinition,
    Definitions,
    JobDefinition,
    ScheduleDefinition,
    SensorDefinition,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from dagster.components.definitions import LazyDefinitions

NAMED = (JobDefinition, UnresolvedAssetJobDefinition, ScheduleDefinition, SensorDefinition)


def left_out(root: Path, entry: str, served: Definitions) -> list[str]:
    """A line for each definition that is not served because of what else its file has.

    Args:
        root: The project's folder. Its modules have been imported.
        entry: The module with the project's definitions; it may have anything.
        served: What is served.
    """
    repository = served.get_repository_def()
    names = {one.name for one in repository.get_all_jobs()}
    names |= {one.name for one in repository.schedule_defs}
    names |= {one.name for one in repository.sensor_defs}
    keys = repository.asset_graph.get_all_asset_keys()
    checks = repository.asset_graph.asset_check_keys
    found: list[str] = []
    for module in list(sys.modules.values()):
        file = _file(module, root)
        if file is None or module.__name__ == entry or not _has_definitions(module):
            continue
        for value in vars(module).values():
            if isinstance(value, NAMED) and value.name not in names:
                found.append(f"{file}: {value.name}")
            elif isinstance(value, AssetChecksDefinition):
                if not set(value.check_keys) & set(checks):
                    found.append(f"{file}: {next(iter(value.check_keys)).name}")
            elif isinstance(value, AssetsDefinition) and not set(value.keys) & keys:
                found.append(f"{file}: {next(iter(value.keys)).to_user_string()}")
    return sorted(set(found))


def _file(module: ModuleType, root: Path) -> Path | None:
    """The module's file relative to the project, or None if it is not the project's."""
    file: Any = getattr(module, "__file__", None)
    if not file or not Path(file).is_relative_to(root):
        return None
    return Path(file).relative_to(root)


def _has_definitions(module: ModuleType) -> bool:
    return any(isinstance(value, Definitions | LazyDefinitions) for value in vars(module).values())
