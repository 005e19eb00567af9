"""Fills in ${NAME} in dagster.yaml, by one rule for the run launcher and for the guard.

The gap: `container_kwargs` of the DockerRunLauncher accepts only literals. Volume names and labels
could then not contain the stack's name, and two stacks could not run on one machine. This module
could be deleted if Dagster accepted `{env: NAME}` in `container_kwargs`.
"""

from collections.abc import Mapping
from string import Template

# The only variable whose value differs from run to run: the service of the run's code location.
LOCATION = "LOCATION"
# The values that YAML can express.
Value = str | int | float | bool | None | Mapping[str, "Value"] | list["Value"]


class Unset(Exception):
    """dagster.yaml uses a variable that is not set, or contains a `$` that starts no variable."""


def fill(value: Value, environment: Mapping[str, str]) -> Value:
    """Replaces ${NAME} in every string of a configuration value.

    Args:
        value: A scalar, or nested mappings and lists of scalars. Keys stay as they are.
        environment: The values, by name.

    Returns:
        A value of the same structure. `$$` becomes `$`, as in Compose.

    Raises:
        Unset: A variable is not in the environment, or a `$` starts no variable.
    """
    if isinstance(value, str):
        try:
            return Template(value).substitute(environment)
        except KeyError as unset:
            raise Unset(unset_message(unset.args[0], repr(value))) from None
        except ValueError:
            raise Unset(
                f"{value!r} in dagster.yaml (run_launcher): write ${{NAME}} for a variable and $$"
                " for a dollar sign"
            ) from None
    if isinstance(value, Mapping):
        return {key: fill(item, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, environment) for item in value]
    return value


def unset_message(name: str, place: str) -> str:
    """Says which variable is missing, where dagster.yaml names it, and what to do."""
    return (
        f"{name} is not set, but dagster.yaml names it (run_launcher, {place}):"
        f" set {name} in .env, or take it out of dagster.yaml, and start again"
    )
