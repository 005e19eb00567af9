"""The run launcher of this stack: Dagster's DockerRunLauncher, configured with variables.

The gap: `container_kwargs` in dagster.yaml takes literals only, so that volume names and labels
cannot carry the stack's name and two stacks could not live side by side; and a name in
`env_vars` that is not set is found out when a run is launched, after the UI has said
"launched" (dagster-io/dagster#4190). And a container that cannot have all its networks is made
nevertheless. Could be deleted when `container_kwargs` accepts `{env: NAME}`, instance start-up
checks `env_vars`, and networks are part of the request to make the container.
"""

import os
from collections.abc import Mapping
from string import Template
from typing import Any, Self, cast

from dagster import DagsterInvariantViolationError
from dagster._core.storage.dagster_run import DagsterRun
from dagster._serdes import ConfigurableClassData
from dagster_docker import DockerRunLauncher
from dagster_docker.container_context import DockerContainerContext


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
                raise _unset(name, "env_vars")
        return super().from_config_value(
            inst_data, cast("Mapping[str, Any]", substitute(config_value))
        )

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


# What YAML can hold.
Value = str | int | float | bool | None | Mapping[str, "Value"] | list["Value"]


def substitute(value: Value) -> Value:
    """Replaces ${NAME} from the environment in every string of a configuration value.

    Args:
        value: A scalar, or mappings and lists of them, nested.

    Returns:
        A value of the same shape. `$$` becomes `$`, as in Compose.

    Raises:
        DagsterInvariantViolationError: A variable is not set.
    """
    if isinstance(value, str):
        try:
            return Template(value).substitute(os.environ)
        except KeyError as unset:
            raise _unset(unset.args[0], repr(value)) from None
    if isinstance(value, Mapping):
        return {key: substitute(item) for key, item in value.items()}
    if isinstance(value, list):
        return [substitute(item) for item in value]
    return value


def _unset(name: str, place: str) -> DagsterInvariantViolationError:
    return DagsterInvariantViolationError(
        f"{name} is not set, but dagster.yaml names it (run_launcher, {place}):"
        f" set {name} in .env, or take it out of dagster.yaml, and start again"
    )
