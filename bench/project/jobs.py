"""What both peers run, besides the example project: peers.py puts this file into a copy."""

import dagster as dg

from code_location.defs.numbers.ops import process_numbers


@dg.op
def work():
    return 1


@dg.job
def one_op():
    work()


@dg.job
def parallel_steps():
    for number in range(20):
        work.alias(f"work_{number}")()


isolated_steps = process_numbers.graph.to_job(
    "isolated_steps", executor_def=dg.multiprocess_executor
)


@dg.schedule(cron_schedule="* * * * *", job=one_op)
def each_minute():
    return dg.RunRequest()


@dg.job
def follow():
    work()


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.SUCCESS,
    monitored_jobs=[one_op],
    request_job=follow,
    minimum_interval_seconds=1,
)
def after_one_op(context):
    return dg.RunRequest(run_key=context.dagster_run.run_id)
