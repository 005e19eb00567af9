"""What a run needs of its container: two runs with the same shape can have the same one (warm.py).

The gap: DockerRunLauncher decides what a container gets while it creates it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dagster._core.utils import parse_env_var
from dagster_docker.container_context import DockerContainerContext

from control_plane.guard.policy import EXECUTE_RUN, JOB_VARIABLE

# In the place of the job in the container's name and label.
JOB = "warm"


@dataclass(frozen=True)
class Shape:
    """What a run needs of its container.

    Attributes:
        service: The code server of its code location.
        image: The ID of its image.
        environment: Its variables.
        network: Its network.
        kwargs: What else the container gets, in the Python SDK's terms.
        like: The arguments of the run's command.
        runs: How many runs its container may execute, one after the other.
    """

    service: str
    image: str
    environment: Mapping[str, str]
    network: str
    kwargs: Mapping[str, Any]
    like: str
    runs: int

    @property
    def fits(self) -> str:
        """The same for two runs that can have the same container."""
        like: dict[str, Any] = json.loads(self.like)
        code = like["pipeline_origin"]["repository_origin"], like["instance_ref"]
        parts = [self.image, self.environment, self.network, self.kwargs, code, self.runs]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def shape_of(
    service: str, image: str, command: Sequence[str], context: DockerContainerContext, runs: int = 1
) -> Shape | None:
    """What DockerRunLauncher would create a run's container with; or None for other commands.

    Args:
        service: The code server of the run's code location.
        image: The ID of its image.
        command: What the container would execute.
        context: Its other settings.
        runs: How many runs its container may execute, one after the other.
    """
    if list(command[:3]) != EXECUTE_RUN:
        return None
    kwargs = {name: one for name, one in context.container_kwargs.items() if name != "stop_timeout"}
    environment = dict(parse_env_var(one) for one in context.env_vars)
    return Shape(
        service,
        image,
        {**environment, JOB_VARIABLE: JOB},
        context.networks[0],
        kwargs,
        command[3],
        runs,
    )
