"""The run launcher of this stack: Dagster's DockerRunLauncher, configured with variables.

The gap: dagster.yaml cannot name variables in `container_kwargs` (instance_file.py). Dagster finds
a name in `env_vars` that is not set only when it launches a run, after the UI has said "launched"
(dagster-io/dagster#4190). And it creates a container whose networks are refused afterwards. This
module could be deleted if instance start-up checked `env_vars`, and if networks were part of the
request that creates the container.
"""

import os
from collections.abc import Mapping
from typing import Any, Self, cast

from dagster import DagsterInvariantViolationError
from dagster._core.storage.dagster_run import DagsterRun
from dagster._serdes import ConfigurableClassData
from dagster_docker import DockerRunLauncher
from dagster_docker.container_context import DockerContainerContext

from control_plane.instance_file import Unset, fill, unset_message


class ComposeRunLauncher(DockerRunLauncher):
    """DockerRunLauncher whose configuration may say ${NAME} wherever it takes a string."""

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> Self:
        """Builds the launcher from its section of dagster.yaml.

        Raises:
            DagsterInvariantViolationError: A variable that the section names is not set.
        """
        names: list[str] = config_value.get("env_vars") or []
        for name in names:
            if "=" not in name and name not in os.environ:
                raise DagsterInvariantViolationError(unset_message(name, "env_vars"))
        try:
            filled = fill(config_value, os.environ)
        except Unset as unset:
            raise DagsterInvariantViolationError(str(unset)) from None
        return super().from_config_value(inst_data, cast("Mapping[str, Any]", filled))

    def get_container_context(self, dagster_run: DagsterRun) -> DockerContainerContext:
        """What the run's container is to be.

        Networks are held to dagster.yaml here: DockerRunLauncher asks for a second one only when
        the container has been made, and would leave it behind when the guard refuses. All else
        is in the request to make it, which the guard judges.

        Raises:
            DagsterInvariantViolationError: The run, or its code location, adds a network.
        """
        context = super().get_container_context(dagster_run)
        configured = cast("list[str]", self.networks)  # pyright: ignore[reportUnknownMemberType] # upstream's
        added = context.networks[len(configured) :]
        if added:
            raise DagsterInvariantViolationError(
                f"refused: the container context adds the networks {', '.join(added)};"
                f" dagster.yaml has {', '.join(configured)}"
            )
        return context
