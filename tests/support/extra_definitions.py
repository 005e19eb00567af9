"""Jobs that only the tests want; copied into the test stack's code location."""

import ctypes
import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dagster import (
    AssetCheckEvaluation,
    AssetKey,
    AssetMaterialization,
    AssetObservation,
    In,
    Nothing,
    SkipReason,
    job,
    multiprocess_executor,
    op,
    schedule,
    sensor,
)


@op
def speak():
    print("said on stdout")
    print("said on stderr", file=sys.stderr)


@job
def talk():
    speak()


# A window's title, another colour, a cleared screen, a way back over what was written, the
# clipboard, C1 control characters, another writing direction, bytes that are no UTF-8.
CONTROL = (
    b"\x1b]0;owned\x07 \x1b[31mred \x1b[2J \rback \x1b]52;c;b3du\x07"
    + " \x9b31m \u202e gnirts\x00".encode()
    + b" \xff end"
)


@op
def take_over_the_terminal():
    sys.stdout.flush()
    sys.stdout.buffer.write(CONTROL + b"\n")
    sys.stdout.flush()


@job
def control_sequences():
    take_over_the_terminal()


@op
def break_down():
    raise RuntimeError("the pump is dry")


@job
def fail():
    break_down()


@op
def wait_for_ever(context):
    context.log.info("waiting")
    while True:
        time.sleep(0.1)


@job
def hang():
    wait_for_ever()


@op(ins={"start": In(Nothing)})
def wait_for_ever_after():
    while True:
        time.sleep(0.1)


@op(pool="one_place")
def hold_the_place(context):
    context.log.info("in the pool")
    time.sleep(8)  # for 5 s after a run's start, Dagster counts its pools as taken


@job
def leave_the_pool_and_hang():
    wait_for_ever_after(hold_the_place())


@op
def report_from_two_processes(context):
    context.log.info("before the fork")
    child = os.fork()
    for number in range(20):
        context.log.info(f"{'parent' if child else 'child'} {number}")
    if not child:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


@job
def forks():
    report_from_two_processes()


@op
def look_at_the_collector():
    assert gc.isenabled()
    assert gc.get_freeze_count() > 100_000


@job
def collector():
    look_at_the_collector()


@op
def name_its_parent(context):
    context.log.info(f"parent: {os.getppid()}")


@job(executor_def=multiprocess_executor)
def in_processes_of_their_own():
    name_its_parent()


@job(tags={"dagster-docker/memory": "512m", "dagster-docker/cpus": "0.5"})
def small():
    speak()


@job(tags={"dagster-docker/memory": "64g"})
def greedy():
    speak()


@op
def use_memory():
    print("about to use memory", flush=True)
    return len(bytearray(b"x") * 1_500_000_000)  # more than mem_limit in dagster.yaml


@job
def exceed_the_memory():
    use_memory()


@job(executor_def=multiprocess_executor)
def exceed_the_memory_in_a_process():
    use_memory()


@op
def observe_for_ever(context):
    while True:
        context.log_event(AssetObservation("the_world"))
        time.sleep(0.5)


@job
def observe():
    observe_for_ever()


@op
def report_often(context):
    for number in range(50):
        context.log.info(f"report {number}")
        time.sleep(0.1)


@job
def reports():
    report_often()


@op
def ignore_signals():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("ignoring signals", flush=True)
    while True:
        time.sleep(0.1)


@job
def never_end():
    ignore_signals()


# With a limit of its own, its container is its own before it loads the code.
@job(tags={"dagster/max_retries": "0", "dagster-docker/memory": "512m"})
def die_before_the_start():
    speak()


if os.environ.get("DAGSTER_RUN_JOB_NAME") == "die_before_the_start":
    print("out of luck", flush=True)
    os._exit(7)


@op
def prepare_data():
    return 21


@op
def use_data(context, number):
    if context.run.parent_run_id is None:
        raise RuntimeError("not the first time")
    return 2 * number


@job
def recover():
    use_data(prepare_data())


@op(pool="the_instance")
def use_instance(context):
    """What user code asks of `context.instance`, and the database has to let it."""
    instance = context.instance
    instance.add_dynamic_partitions("colours", ["red", "green"])
    instance.delete_dynamic_partition("colours", "red")
    assert instance.get_dynamic_partitions("colours") == ["green"]
    key = AssetKey("reported")
    for _ in range(2):  # the second finds the asset's row there
        instance.report_runless_asset_event(AssetMaterialization(key, tags={"by": "hand"}))
    instance.report_runless_asset_event(AssetObservation(key, tags={"by": "hand"}))
    instance.report_runless_asset_event(
        AssetCheckEvaluation(asset_key=key, check_name="well", passed=True)
    )
    assert instance.get_latest_materialization_event(key)
    for colour in ("blue", "black"):
        instance.add_run_tags(context.run_id, {"colour": colour})
    context.add_output_metadata({"runs": len(instance.get_runs())})


@job
def instance_user():
    use_instance()


@schedule(job=talk, cron_schedule="* * * * *")
def broken_schedule():
    raise RuntimeError("the calendar is torn")


@sensor(job=talk, minimum_interval_seconds=5)
def broken_sensor():
    raise RuntimeError("the lens is cracked")


@op
def write_without_end():
    with tempfile.TemporaryFile() as file:
        while True:
            file.write(bytes(2**20))


@job
def fill_tmp():
    write_without_end()


@schedule(cron_schedule="* * * * *", job=talk)
def every_minute_nothing(context):
    return SkipReason(f"nothing at {context.scheduled_execution_time:%H:%M}")


SHARED = {"dagster/isolation": "disabled"}
found_by_earlier_runs = []


@op
def look_for_an_earlier_run(context):
    """Names what an earlier run in this container has left, and leaves the same."""
    left = Path(tempfile.gettempdir(), "left-by-a-run")
    commands = [one.read_bytes() for one in Path("/proc").glob("[0-9]*/cmdline")]
    others = [one for one in commands if b"left-behind" in one]
    print(f"process {os.getpid()} found {left.exists()}, {others}, {found_by_earlier_runs}")
    left.mkdir()
    (left / "file").touch()
    left.chmod(0)
    found_by_earlier_runs.append(context.run_id)
    subprocess.Popen(["sh", "-c", "sleep 600; : left-behind"], start_new_session=True)


@job(tags=SHARED)
def shared():
    look_for_an_earlier_run()


@op
def leave_memory():
    create_only = 0o1600
    assert ctypes.CDLL(None).shmget(14, 2**20, create_only) >= 0


@job(tags=SHARED)
def shared_leave_memory():
    leave_memory()


@job(tags=SHARED)
def shared_hang():
    wait_for_ever()


@job(tags=SHARED)
def shared_fail():
    break_down()


@op
def be_killed():
    os.kill(os.getpid(), signal.SIGKILL)


@job(tags=SHARED | {"dagster/max_retries": "0"})
def shared_be_killed():
    be_killed()


@op
def end_without_a_word():
    os._exit(0)


@job(tags=SHARED | {"dagster/max_retries": "0"})
def shared_end_without_a_word():
    end_without_a_word()
