"""The Spark session, and the connector that Spark needs to reach BigQuery."""

import os
from pathlib import Path

from dagster import ConfigurableResource, Definitions, Failure, definitions
from pyspark.sql import SparkSession

# Jars in this folder of the image are on Spark's class path.
JARS = Path(os.environ.get("SPARK_JARS", "/opt/spark-jars"))


class Spark(ConfigurableResource):
    """A Spark session inside the run's own process."""

    driver_memory: str = "512m"

    def session(self) -> SparkSession:
        """The one session of this process, started when it is first asked for."""
        return (
            SparkSession.builder.master("local[1]")
            .config("spark.ui.enabled", "false")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.driver.memory", self.driver_memory)
            .config("spark.jars", ",".join(str(jar) for jar in sorted(JARS.glob("*.jar"))))
            .getOrCreate()
        )

    def require_bigquery_connector(self) -> None:
        """Raises Failure, with what to do, when Spark could not write to BigQuery.

        Spark itself says DATA_SOURCE_NOT_FOUND below a hundred lines of Java.
        """
        if not list(JARS.glob("spark-*bigquery*.jar")):
            raise Failure(
                f"Spark cannot reach BigQuery: there is no connector in {JARS}. Put"
                " spark-3.5-bigquery-<version>.jar (Maven: com.google.cloud.spark) into"
                " warehouse_location/jars/ and build the image again.",
                allow_retries=False,
            )


@definitions
def resources() -> Definitions:
    return Definitions(resources={"spark": Spark()})
