"""Schedules: each job runs every minute after its schedule has been switched on."""

from dagster import ScheduleDefinition

from code_location.defs.numbers.assets import process_numbers_asset
from code_location.defs.numbers.ops import process_numbers

process_numbers_every_minute = ScheduleDefinition(
    name="process_numbers_every_minute",
    job=process_numbers,
    cron_schedule="* * * * *",
)

process_numbers_asset_every_minute = ScheduleDefinition(
    name="process_numbers_asset_every_minute",
    job=process_numbers_asset,
    cron_schedule="* * * * *",
)
