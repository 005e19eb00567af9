"""Makes a history with an earlier version of Dagster: `earlier_history.py DAGSTER_HOME`.

Prints the IDs of its runs. It runs in an environment of that version alone.
"""

import json
import sys
import time
from importlib import import_module
from importlib.util import find_spec

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
)

LOCATION, SCHEDULE = "code_location", "process_numbers_every_minute"


@dg.op
def say(context):
    context.log.info("said with the earlier version")
    return 1


@dg.job
def saying():
    say()


@dg.op
def fail():
    raise ValueError("it failed with the earlier version")


@dg.job
def failing():
    fail()


@dg.asset(partitions_def=dg.DailyPartitionsDefinition(start_date="2022-01-01"))
def counted(context):
    context.add_output_metadata({"rows": 7})
    return 3


def has(name):
    try:
        return find_spec(name)
    except ModuleNotFoundError:  # nor its package
        return None


def origin():
    """Where the schedule is. These classes have had two names, and two modules."""
    modules = "dagster._core.remote_origin", "dagster._core.host_representation.origin"
    module = next(import_module(name) for name in modules if has(name))

    def of(*names):
        return next(getattr(module, name) for name in names if hasattr(module, name))

    location = of("GrpcServerCodeLocationOrigin", "GrpcServerRepositoryLocationOrigin")
    repository = of("RemoteRepositoryOrigin", "ExternalRepositoryOrigin")
    instigator = of("RemoteInstigatorOrigin", "ExternalInstigatorOrigin")
    server = location(host=LOCATION, port=4000, location_name=LOCATION)
    return instigator(repository(server, "__repository__"), SCHEDULE)


with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    data = ScheduleInstigatorData("* * * * *", start_timestamp=time.time())
    state = InstigatorState(origin(), InstigatorType.SCHEDULE, InstigatorStatus.RUNNING, data)
    instance.add_instigator_state(state)
    results = [
        saying.execute_in_process(instance=instance),
        failing.execute_in_process(instance=instance, raise_on_error=False),
        dg.materialize([counted], instance=instance, partition_key="2022-01-02"),
    ]
    print(json.dumps({"made with": dg.__version__, "runs": [one.run_id for one in results]}))
