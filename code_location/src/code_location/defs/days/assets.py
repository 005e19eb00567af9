"""Partitioned data: one partition for each day. A run materializes one, a backfill many."""

from dagster import AssetSelection, DailyPartitionsDefinition, asset, define_asset_job

days = DailyPartitionsDefinition(start_date="2026-01-01")


@asset(
    group_name="days",
    partitions_def=days,
    description="The numbers from 1 to the day of the month",
    kinds={"python"},
    owners=["team:numbers"],
    tags={"domain": "numbers"},
)
def numbers_of_the_day(context):
    day_of_month = context.partition_time_window.start.day
    return list(range(1, day_of_month + 1))


@asset(
    group_name="days",
    partitions_def=days,
    description="The sum of the day's numbers",
    kinds={"python"},
    owners=["team:numbers"],
    tags={"domain": "numbers"},
)
def sum_of_the_day(numbers_of_the_day):
    return sum(numbers_of_the_day)


process_day = define_asset_job(
    name="process_day",
    description="Materialize one day",
    selection=AssetSelection.groups("days"),
    tags={"domain": "numbers"},
)
