"""Prints what the project in this image defines, as a line of JSON.

`./stack deploy` compares it with what is live, before the new image is. The gap: Dagster's command
lists definitions as tables for people, and one kind at a time.
"""

import json
from typing import Any

from dagster._core.definitions.reconstruct import repository_def_from_target_def

from control_plane.code_server.served import served

# Dagster's name of the job for any selection of assets.
HIDDEN = "__"


def contents() -> dict[str, Any]:
    """The names of jobs and assets, and the jobs of each schedule and sensor."""
    jobs: set[str] = set()
    assets: set[str] = set()
    triggers: dict[str, dict[str, list[str]]] = {"schedules": {}, "sensors": {}}
    for target in served().values():
        found = repository_def_from_target_def(target)
        if not found:
            continue
        jobs |= {name for name in found.job_names if not name.startswith(HIDDEN)}
        assets |= {key.to_user_string() for key in found.asset_graph.get_all_asset_keys()}
        for schedule in found.schedule_defs:
            triggers["schedules"][schedule.name] = [schedule.job_name]
        for sensor in found.sensor_defs:
            triggers["sensors"][sensor.name] = [one.job_name for one in sensor.targets]
    named = {"jobs": sorted(jobs), "assets": sorted(assets)}
    shown = {
        kind: {name: [job for job in found[name] if not job.startswith(HIDDEN)] for name in found}
        for kind, found in triggers.items()
    }
    return {**named, **shown}


if __name__ == "__main__":
    # A line of its own, whatever the project prints.
    print("\n" + json.dumps(contents()))
