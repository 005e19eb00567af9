"""The definitions of the project in this image: its code server and its runs load this module.

The gap: a project that names no executor gets Dagster's `multiprocess`, which starts a process for
each step that imports everything again. Where each run has its own container, that isolates
nothing: it takes 19 to 41 s and 484 MiB for a run of 1.1 s and 175 MiB. Such a project gets the
in-process executor here. Dagster reads a project's `.env` in `dg dev` only. Here it comes from a
volume, so that its values are in no image and in no `docker inspect`. Runs also start steps faster
(warm_steps.py), keep their connections (kept_connections.py), wait for Postgres (patience.py),
write values whole (whole_values.py), end what they fork (forks.py) and note what they use
(usage.py). This module could be deleted if the instance could name a default executor, and if
`dagster api grpc` read `.env`.
"""

import os
import sys
from collections.abc import Callable
from functools import cache
from typing import cast

from dagster import AssetsDefinition, Definitions, definitions
from dagster._core.definitions.definitions_load_context import (
    DefinitionsLoadContext,
    DefinitionsLoadType,
)
from dagster._core.workspace.autodiscovery import (
    LOAD_ALL_ASSETS,
    loadable_targets_from_python_module,
)
from dagster.components.definitions import LazyDefinitions

from control_plane.code_server import hand_over
from control_plane.code_server.executor import in_container
from control_plane.code_server.forks import end_forks_by_sigterm
from control_plane.code_server.kept_connections import keep_connections_of_run
from control_plane.code_server.left_out import left_out
from control_plane.code_server.patience import wait_for_postgres
from control_plane.code_server.project import definitions_module
from control_plane.code_server.put_in import PROJECT
from control_plane.code_server.usage import note_usage
from control_plane.code_server.warm_steps import start_steps_warm
from control_plane.code_server.whole_values import write_whole_values

# They say how the container works, not how the project does.
PLATFORM = ("DAGSTER_HOME", "DATABASE_ROLE", "HOME", "PATH", "PYTHONPATH")

# `make up` repeats these lines of the code server's log (cli/health.py).
NOT_SERVED = (
    "not served: {}: its file has a @definitions function or a Definitions object, and Dagster"
    " serves only what that has: move one of them to another file"
)

os.environ |= {k: v for k, v in hand_over.variables().items() if k not in PLATFORM}

write_whole_values()
IS_SERVER = "grpc" in sys.argv
if not IS_SERVER:
    end_forks_by_sigterm()
    start_steps_warm()
    keep_connections_of_run()
    wait_for_postgres()
    note_usage()

MODULE = definitions_module(PROJECT)


def with_executor(target: object) -> Callable[[], Definitions]:
    """The project's definitions, with the in-process executor if they name none.

    Args:
        target: What the project's module has: Definitions, a function that makes them, or assets.
    """

    def make() -> Definitions:
        if isinstance(target, LazyDefinitions):
            found = cast("LazyDefinitions[Definitions]", target)()
        elif isinstance(target, Definitions):
            found = target
        else:
            found = Definitions(assets=cast("list[AssetsDefinition]", target))
        if not found.executor:
            found = Definitions.merge(found, Definitions(executor=in_container))
        if IS_SERVER:
            for line in left_out(PROJECT, MODULE, found):
                print(NOT_SERVED.format(line), flush=True)
        return found

    kept = cache(make)

    # Dagster asks again for each run, and in each step's process. They have been loaded before, in
    # a warm container (warm_run.py) and in the process that forks the steps (project_for_steps.py).
    @definitions
    def defs() -> Definitions:
        return make() if _come_from_state() else kept()

    return defs


def _come_from_state() -> bool:
    """Whether the run brings what its definitions were made from, of a BI tool for example.

    Those that are kept may have been made from something else.
    """
    if not DefinitionsLoadContext.is_set():
        return False
    context = DefinitionsLoadContext.get()
    if context.load_type is not DefinitionsLoadType.RECONSTRUCTION:
        return False
    state = context.accessed_defs_state_info
    return bool(
        context.reconstruction_metadata
        or context.cacheable_asset_data
        or (state and state.info_mapping)
    )


def served() -> dict[str, object]:
    """What Dagster finds in this module: the project's definitions, by name."""
    found: dict[str, object] = {}
    for one in loadable_targets_from_python_module(MODULE, str(PROJECT)):
        value: object = one.target_definition
        is_whole = isinstance(value, (LazyDefinitions, Definitions))
        if is_whole or one.attribute == LOAD_ALL_ASSETS:
            found["defs"] = with_executor(cast("object", value))
        else:
            # Repositories, a job or a graph: as they are.
            found[one.attribute] = value
    return found


TARGETS = served()
globals().update(TARGETS)
