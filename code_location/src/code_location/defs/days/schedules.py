"""A schedule: every night at one, it materializes the partition of the day before."""

from dagster import build_schedule_from_partitioned_job

from code_location.defs.days.assets import process_day

process_day_every_night = build_schedule_from_partitioned_job(
    process_day,
    name="process_day_every_night",
    description="Materialize the day that has just ended",
    hour_of_day=1,
)
