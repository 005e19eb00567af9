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
