"""Large data by reference: the data is in the store as Parquet, and only its path is the asset.

Writer and reader hold one batch at a time, so their memory does not grow with the data
(bench/large_data.py).
"""

import os
import resource

import pyarrow as pa
import pyarrow.parquet as pq
from dagster import Config, asset, define_asset_job
from pyarrow.fs import S3FileSystem

from warehouse_location.defs.stores.settings import settings

BATCH_ROWS = 100_000


class Size(Config):
    """How much data."""

    rows: int = 1_000_000


def store() -> S3FileSystem:
    s3 = settings()["s3"]
    if "endpoint_url" not in s3:
        return S3FileSystem(region=s3["region"])
    # By default the AWS client sends the checksum after the data and no length before it. Other
    # servers answer that with 411.
    os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    scheme, _, endpoint = s3["endpoint_url"].partition("://")
    return S3FileSystem(
        endpoint_override=endpoint, scheme=scheme, region=s3["region"], anonymous=s3["unsigned"]
    )


def peak_mib() -> float:
    """The most memory that this process has used so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@asset(
    group_name="large",
    description="The path of a large table in Parquet, not the table itself",
    kinds={"parquet", "s3"},
    owners=["team:numbers"],
)
def large_table(context, config: Size) -> str:
    path = f"{settings()['s3']['bucket']}/large/{context.run.run_id}.parquet"
    schema = pa.schema([("number", pa.int64())])
    with pq.ParquetWriter(path, schema, filesystem=store(), compression="none") as writer:
        for start in range(0, config.rows, BATCH_ROWS):
            numbers = pa.array(range(start, min(start + BATCH_ROWS, config.rows)), pa.int64())
            writer.write_batch(pa.record_batch([numbers], schema))
    context.add_output_metadata({"table": path, "rows": config.rows, "peak_mib": peak_mib()})
    return path


@asset(
    group_name="large",
    description="The sum of the table, read in batches",
    kinds={"parquet", "s3"},
    owners=["team:numbers"],
)
def large_sum(context, large_table: str) -> int:
    # Not pyarrow.dataset: it reads ahead. For ten times the data it used twice the memory.
    with store().open_input_file(large_table) as file:
        batches = pq.ParquetFile(file, pre_buffer=False).iter_batches(BATCH_ROWS)
        total = sum(batch.column("number").to_numpy().sum() for batch in batches)
    context.add_output_metadata({"sum": int(total), "peak_mib": peak_mib()})
    return int(total)


large_write = define_asset_job(
    "large_write", selection="large_table", description="Write the large table"
)
large_read = define_asset_job(
    "large_read", selection="large_sum", description="Read the large table in batches"
)
