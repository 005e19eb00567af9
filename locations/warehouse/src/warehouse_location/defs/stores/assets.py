"""Two assets for each I/O manager: one run writes the first, another run reads it."""

from decimal import Decimal
from functools import partial

import pandas as pd
from dagster import (
    AssetIn,
    AssetKey,
    AssetsDefinition,
    Config,
    DailyPartitionsDefinition,
    asset,
    define_asset_job,
    multiprocess_executor,
)
from pyspark.sql import DataFrame
from pyspark.sql.functions import sum as sum_
from pyspark.sql.functions import to_date

from warehouse_location.defs.stores.spark import Spark


def pickled_pair(manager: str) -> list[AssetsDefinition]:
    """A list and its sum, for an I/O manager that can store any Python value."""

    @asset(
        name=f"{manager}_numbers",
        io_manager_key=manager,
        group_name=manager,
        description=f"Numbers, stored by the I/O manager {manager}",
        kinds={"python"},
        owners=["team:numbers"],
    )
    def numbers() -> list[int]:
        return list(range(1, 11))

    @asset(
        name=f"{manager}_sum",
        ins={"numbers": AssetIn(AssetKey(f"{manager}_numbers"))},
        io_manager_key=manager,
        group_name=manager,
        description="Their sum, read back from there",
        kinds={"python"},
        owners=["team:numbers"],
    )
    def total(context, numbers: list[int]) -> int:
        context.add_output_metadata({"sum": sum(numbers)})
        return sum(numbers)

    return [numbers, total]


# `io_manager` is the default that stores.toml sets.
pickled = [
    definition
    for manager in ("filesystem", "in_memory", "s3", "gcs", "io_manager")
    for definition in pickled_pair(manager)
]

bigquery_pandas, bigquery_pyspark = (
    partial(
        asset,
        io_manager_key=f"bigquery_{library}",
        group_name=f"bigquery_{library}",
        kinds={library, "bigquery"},
        owners=["team:numbers"],
    )
    for library in ("pandas", "pyspark")
)


@bigquery_pandas(description="Numbers, as a table in BigQuery")
def pandas_numbers() -> pd.DataFrame:
    return pd.DataFrame({"number": list(range(1, 11))})


@bigquery_pandas(description="Their sum, read back from there")
def pandas_sum(context, pandas_numbers: pd.DataFrame) -> pd.DataFrame:
    total = int(pandas_numbers["number"].sum())
    context.add_output_metadata({"sum": total})
    return pd.DataFrame({"sum": [total]})


@bigquery_pyspark(description="Numbers from Spark, as a table in BigQuery")
def pyspark_numbers(context, spark: Spark) -> DataFrame:
    frame = spark.session().createDataFrame([(number,) for number in range(1, 11)], ["number"])
    context.log.info(f"Spark {spark.session().version} counts {frame.count()} rows")
    return frame


@bigquery_pyspark(description="Their sum, read back from there")
def pyspark_sum(context, pyspark_numbers: DataFrame) -> DataFrame:
    total = pyspark_numbers.agg(sum_("number").alias("sum"))
    context.add_output_metadata({"sum": total.first()[0]})
    return total


# The types that both Spark and BigQuery support.
EVERY_TYPE = (
    "day timestamp, number bigint, half double, label string, even boolean, date date,"
    " price decimal(10, 2), raw binary, pair array<bigint>, part struct<name: string, size: bigint>"
)


class Size(Config):
    """The number of rows for each day."""

    rows: int = 3


@bigquery_pyspark(
    partitions_def=DailyPartitionsDefinition(start_date="2026-01-01"),
    metadata={"partition_expr": "day"},
    description="Rows with every type; each day is a partition of the table",
)
def pyspark_days(context, config: Size, spark: Spark) -> DataFrame:
    day = context.partition_time_window.start
    rows = [
        (
            day,
            n,
            n / 2,
            f"row {n}",
            n % 2 == 0,
            day.date(),
            Decimal(n) / 4,
            b"\0\xff",
            [n, -n],
            ("all", n),
        )
        for n in range(1, config.rows + 1)
    ]
    return spark.session().createDataFrame(rows, EVERY_TYPE)


@bigquery_pyspark(description="The number of rows for each day, read back from BigQuery")
def pyspark_days_counted(context, pyspark_days: DataFrame) -> DataFrame:
    counted = pyspark_days.groupBy(to_date("day").alias("day")).count().orderBy("day")
    context.add_output_metadata(
        {
            "days": ", ".join(f"{row['day']}: {row['count']}" for row in counted.collect()),
            "first": str(pyspark_days.orderBy("day", "number").first()),
            "types": pyspark_days.schema.simpleString(),
        }
    )
    return counted


# These jobs show which I/O managers work when each step has its own process
# (docs/how-to/warehouse-location.md).
several_processes = [
    define_asset_job(
        f"{manager}_in_several_processes",
        selection=[f"{manager}_numbers", f"{manager}_sum"],
        description=f"Both assets of {manager}, with a process for each step",
        executor_def=multiprocess_executor,
    )
    for manager in ("filesystem", "in_memory", "s3", "gcs", "pandas", "pyspark")
]
