"""Jobs that only the tests want; copied into the test stack's code location."""

import sys
import time

from dagster import job, op


@op
def speak():
    print("said on stdout")
    print("said on stderr", file=sys.stderr)


@job
def talk():
    speak()


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
