"""Sensors that send notifications.

They only request a run of `notify`. The container of that run posts the message, so a webhook that
is slow or down does not delay other sensors.
"""

import os

from dagster import AssetKey, RunConfig, RunRequest, SkipReason, asset_sensor, run_failure_sensor

from code_location.defs.notifications.jobs import Message, notify


def request(run_key: str, message: Message) -> RunRequest:
    return RunRequest(run_key=run_key, run_config=RunConfig(ops={"post_message": message}))


@run_failure_sensor(
    request_job=notify,
    minimum_interval_seconds=10,
    description="Send the job, the error and the link of each failed run",
)
def failed_runs(context):
    run = context.dagster_run
    if run.job_name == notify.name:
        return SkipReason("no notification about a failed notification")
    steps = context.get_step_failure_events()
    error = steps[0].step_failure_data.error if steps else None
    reason = (error.cause or error).message if error else context.failure_event.message
    return request(
        run.run_id,
        Message(
            text=f"{run.job_name} failed",
            job=run.job_name,
            run=run.run_id,
            error=reason.strip(),
            link=f"{os.environ.get('UI_URL', '')}/runs/{run.run_id}",
        ),
    )


@asset_sensor(
    asset_key=AssetKey("summed_two_sums"),
    job=notify,
    minimum_interval_seconds=10,
    description="Send a message when the numbers were summed",
)
def summed_numbers(context, asset_event):
    return request(
        asset_event.run_id, Message(text="summed_two_sums is new", run=asset_event.run_id)
    )
