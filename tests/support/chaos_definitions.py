"""A job that the chaos suite runs: each step notes that it executes, outside of Dagster."""

import os
import signal
import time
from pathlib import Path

import dagster as dg

# On the volume of the code location's data folder: an external counter, a file for each request.
COUNTER = Path("/var/lib/dagster/data/data/chaos")


class Request(dg.Config):
    number: str
    dies: str = ""  # where the first attempt is killed
    seconds: float = 1.0


class DiesWhileWritten:
    """A value that kills the process in the middle of its pickle."""

    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)


def note(run_id, number, what):
    COUNTER.mkdir(exist_ok=True)
    with (COUNTER / number).open("a") as file:
        file.write(f"{run_id} {what}\n")
        file.flush()
        os.fsync(file.fileno())


def is_to_die(request, where):
    """Whether this process is to be killed here: once for each request."""
    if request.dies != where:
        return False
    try:
        (COUNTER / f"{request.number}.died").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@dg.asset(pool="chaos")
def chaos_value(context, config: Request):
    note(context.run.run_id, config.number, "value")
    time.sleep(config.seconds)
    if is_to_die(config, "in a step"):
        die()
    if is_to_die(config, "for its memory"):
        return len(bytearray(b"x") * 1_500_000_000)
    last = DiesWhileWritten() if is_to_die(config, "while it writes") else None
    return [os.urandom(1_000_000), last]


@dg.asset
def chaos_length(context, config: Request, chaos_value):
    note(context.run.run_id, config.number, "length")
    if is_to_die(config, "between two steps"):
        die()
    time.sleep(config.seconds / 2)
    note(context.run.run_id, config.number, "end")
    return len(chaos_value)


@dg.success_hook
def after_a_step(context):
    request = Request(**context.op_config)
    if context.op.name == "chaos_length" and is_to_die(request, "after the last step"):
        die()


chaos = dg.define_asset_job("chaos", [chaos_value, chaos_length], hooks={after_a_step})


@dg.schedule(cron_schedule="* * * * *", job_name="chaos")
def chaos_minute(context):
    return dg.SkipReason(f"{context.scheduled_execution_time:%H:%M}")
