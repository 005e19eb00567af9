"""What one run or job may use, by its tags.

The gap: DockerRunLauncher gives all runs of a code location the same limits. Dagster's launcher for
Kubernetes reads them from the tag `dagster-k8s/config`. This module could be deleted if
DockerRunLauncher had such a tag.
"""

import re
from collections.abc import Mapping
from typing import Any

from control_plane.guard.policy import byte_count

SIZE, CPUS, COUNT = r"\d+[bkmg]", r"\d+(\.\d+)?", r"\d+"
PREFIX = "dagster-docker/"
# By tag: the setting in container_kwargs, the form of a value, an example of it, and the least. The
# engine refuses less memory and CPU, and a run needs some processes and threads to start.
TAGS = {
    "dagster-docker/memory": ("mem_limit", SIZE, "512m or 2g", 6 * 2**20),
    "dagster-docker/cpus": ("nano_cpus", CPUS, "0.5 or 2", 10**7),
    "dagster-docker/processes": ("pids_limit", COUNT, "256", 8),
}
# The tag of Dagster+ for whether a run shares its container with other runs.
ISOLATION_TAG, RUNS_WHEN_ASKED = "dagster/isolation", 25


class BadLimit(Exception):
    """A tag asks for what cannot be had. The message is one line for the run's event log."""


def limits_of(tags: Mapping[str, str], most: Mapping[str, Any]) -> dict[str, Any]:
    """The limits that a run's tags ask for, as container_kwargs.

    Args:
        tags: The run's tags. Those of its job are among them.
        most: The container_kwargs of dagster.yaml.

    Raises:
        BadLimit: There is no such tag, or a value has the wrong form, is too small, or is above
            dagster.yaml's.
    """
    for tag in tags:
        if tag.startswith(PREFIX) and tag not in TAGS:
            raise BadLimit(f"refused: there is no tag {tag}: use {', '.join(TAGS)}")
    found: dict[str, Any] = {}
    for tag, (setting, form, example, least) in TAGS.items():
        value = tags.get(tag)
        if value is None:
            continue
        amount = _amount(setting, value) if re.fullmatch(form, value) else 0
        if amount < least:
            raise BadLimit(f"refused: the tag {tag} is {value!r}: use for example {example}")
        limit = most.get(setting)
        if limit and amount > byte_count(limit):
            raise BadLimit(
                f"refused: the tag {tag} is {value}, and dagster.yaml allows at most"
                f" {_shown(setting, limit)} (run_launcher, container_kwargs, {setting})"
            )
        found[setting] = value if setting == "mem_limit" else amount
    return found


def _amount(setting: str, value: str) -> int:
    return int(float(value) * 10**9) if setting == "nano_cpus" else byte_count(value)


def _shown(setting: str, limit: int | str | None) -> int | float | str | None:
    return limit / 10**9 if setting == "nano_cpus" and isinstance(limit, int) else limit


def runs_of(tags: Mapping[str, str], usual: int) -> int:
    """How many runs the container of a run may execute, one after the other.

    Args:
        tags: The run's tags. Those of its job are among them.
        usual: What a run gets that does not say.

    Raises:
        BadLimit: The tag has another value than enabled or disabled.
    """
    asked = tags.get(ISOLATION_TAG)
    if asked is None:
        return usual
    if asked not in ("enabled", "disabled"):
        raise BadLimit(f"refused: the tag {ISOLATION_TAG} is {asked!r}: use enabled or disabled")
    return 1 if asked == "enabled" else max(usual, RUNS_WHEN_ASKED)
