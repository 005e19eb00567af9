"""Creates the I/O managers from stores.toml. The default one is set there, not in code."""

import base64
import json
import os
from collections.abc import Mapping
from typing import Any

from dagster import (
    DagsterInvariantViolationError,
    Definitions,
    FilesystemIOManager,
    InMemoryIOManager,
    InputContext,
    definitions,
    in_process_executor,
)
from dagster_aws.s3 import S3PickleIOManager, S3Resource
from dagster_gcp import GCSPickleIOManager, GCSResource

from warehouse_location.defs.stores.bigquery import BigQueryPandas, BigQuerySpark
from warehouse_location.defs.stores.settings import settings
from warehouse_location.defs.stores.spark import Spark


class InMemoryWithinOneProcess(InMemoryIOManager):
    """InMemoryIOManager that explains why a value is missing."""

    def load_input(self, context: InputContext) -> object:
        """Raises DagsterInvariantViolationError where the original raises KeyError."""
        try:
            return super().load_input(context)
        except KeyError:
            raise DagsterInvariantViolationError(
                "in_memory keeps values in one process, and this one has none of"
                f" {context.upstream_output.get_identifier()}: materialize both in one run whose"
                " steps share a process, or choose another I/O manager"
            ) from None


def managers(config: Mapping[str, Any], spark: Spark) -> dict[str, Any]:
    """Every I/O manager, by its name in stores.toml.

    Google's clients accept the address of an emulator only from the environment.
    """
    s3, gcs, bigquery = config["s3"], config["gcs"], config["bigquery"]
    if "emulator" in gcs:
        os.environ["STORAGE_EMULATOR_HOST"] = gcs["emulator"]
    if "emulator" in bigquery:
        os.environ["BIGQUERY_EMULATOR_HOST"] = bigquery["emulator"]
    tables = {"project": bigquery["project"], "dataset": bigquery["dataset"]}
    if "emulator" in bigquery:
        tables["gcp_credentials"] = _nobody()
    return {
        "filesystem": FilesystemIOManager(),
        "in_memory": InMemoryWithinOneProcess(),
        "s3": S3PickleIOManager(
            s3_resource=S3Resource(
                endpoint_url=s3.get("endpoint_url"),
                region_name=s3["region"],
                use_unsigned_session=s3.get("unsigned", False),
            ),
            s3_bucket=s3["bucket"],
        ),
        "gcs": GCSPickleIOManager(
            gcs=GCSResource(project=gcs["project"]), gcs_bucket=gcs["bucket"]
        ),
        "bigquery_pandas": BigQueryPandas(**tables, write_mode="truncate"),
        "bigquery_pyspark": BigQuerySpark(**tables, spark=spark),
    }


def _nobody() -> str:
    """Empty credentials for the emulator. They never expire, so the client does not renew them."""
    none = "none"
    nobody = {"type": "authorized_user", "client_id": none, "client_secret": none}
    nobody |= {"refresh_token": none, "token": none, "expiry": "2099-01-01T00:00:00Z"}
    return base64.b64encode(json.dumps(nobody).encode()).decode()


@definitions
def resources() -> Definitions:
    config, spark = settings(), Spark()
    made = managers(config, spark)
    return Definitions(
        resources={**made, "io_manager": made[config["default"]], "spark": spark},
        executor=in_process_executor,
    )
