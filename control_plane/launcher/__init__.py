"""The run launcher of this stack: Dagster's DockerRunLauncher, configured with variables.

The gap: dagster.yaml cannot use variables in `container_kwargs` (instance_file.py). Dagster notices
an unset name in `env_vars` only when it launches a run, after the UI has reported "launched"
(dagster-io/dagster#4190). It creates a container even when one of its networks is refused. This
module could be deleted if `container_kwargs` accepted variables, if the instance checked `env_vars`
at start, and if the create request contained all networks.
"""

import os
from collections.abc import Mapping
from typing import Any, Self, cast

from dagster import DagsterInvariantViolationError
from dagster._core.storage.dagster_run import DagsterRun
from dagster._serdes import ConfigurableClassData
from dagster_docker import DockerRunLauncher
from dagster_docker.container_context import DockerContainerContext

from control_plane.instance_file import LOCATION, Unset, fill, unset_message


class ComposeRunLauncher(DockerRunLauncher):
    """DockerRunLauncher that accepts ${NAME} in every string of its configuration."""

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> Self:
        """Builds the launcher from its section of dagster.yaml.

        Raises:
            DagsterInvariantViolationError: A variable that the section uses is not set.
        """
        names: list[str] = config_value.get("env_vars") or []
        for name in names:
            if "=" not in name and name not in os.environ:
                raise DagsterInvariantViolationError(unset_message(name, "env_vars"))
        try:
            # Filled in for each run, in get_container_context.
            later = {LOCATION: f"${{{LOCATION}}}"}
            filled = fill(config_value, {**os.environ, **later})
        except Unset as unset:
            raise DagsterInvariantViolationError(str(unset)) from None
        # The instance page shows this, to viewers too. It shows no other variable's value.
        text = inst_data.config_yaml.replace("${STACK_NAME}", os.environ.get("STACK_NAME", ""))
        shown = inst_data._replace(config_yaml=text)
        return super().from_config_value(shown, cast("Mapping[str, Any]", filled))

    def get_container_context(self, dagster_run: DagsterRun) -> DockerContainerContext:
        """The settings of the run's container, with the volumes of its code location.

        Refuses networks that dagster.yaml does not list.

        DockerRunLauncher connects further networks after it has created the container. A refusal
        by the guard would then leave the container behind. The guard checks everything else,
        because it is in the create request.

        Raises:
            DagsterInvariantViolationError: The run or its code location adds a network.
        """
        context = super().get_container_context(dagster_run)
        configured = cast("list[str]", self.networks)  # pyright: ignore[reportUnknownMemberType] # upstream's
        added = context.networks[len(configured) :]
        if added:
            raise DagsterInvariantViolationError(
                f"refused: the container context adds the networks {', '.join(added)};"
                f" dagster.yaml has {', '.join(configured)}"
            )
        kwargs = dict(context.container_kwargs)
        if "volumes" in kwargs:
            service = _code_server(dagster_run)
            volumes = cast("list[str]", kwargs["volumes"])
            kwargs["volumes"] = [one.replace(f"${{{LOCATION}}}", service) for one in volumes]
        return context._replace(container_kwargs=kwargs)


def _code_server(dagster_run: DagsterRun) -> str:
    """The service that serves the run's code location. The guard compares it with the image."""
    origin = dagster_run.remote_job_origin
    location = origin and origin.repository_origin.code_location_origin
    return str(getattr(location, "host", ""))
