"""The Spark session, and its settings for BigQuery."""

import os
import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import NoEncryption, pkcs12
from dagster import ConfigurableResource, Failure
from pyspark.sql import SparkSession

from warehouse_location.defs.stores.settings import settings

# The jars in this folder of the image are on Spark's class path.
JARS = Path(os.environ.get("SPARK_JARS", "/opt/spark-jars"))
CONNECT_SECONDS = 10


class Spark(ConfigurableResource):
    """A Spark session inside the process of the run."""

    driver_memory: str = "512m"
    # Without Java's second compiler, a short run uses less CPU time and memory. With it, a
    # computation of many minutes is faster: set this to an empty string.
    java_options: str = "-XX:TieredStopAtLevel=1"

    def session(self) -> SparkSession:
        """The only session of this process. The first call starts it.

        Raises Failure when the Storage API of a local BigQuery does not answer.
        """
        if session := SparkSession.getActiveSession():
            return session
        options = {
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.memory": self.driver_memory,
            "spark.driver.extraJavaOptions": self.java_options,
            # Not spark.jars: Spark would copy those into /tmp, which is memory of the run.
            "spark.driver.extraClassPath": f"{JARS}/*",
        }
        bigquery = settings()["bigquery"]
        if has_bigquery_connector():
            options |= connector_options(bigquery)
            if "emulator" in bigquery:
                store = trust_store(bigquery["storage_emulator"])
                options["spark.driver.extraJavaOptions"] += f" -Djavax.net.ssl.trustStore={store}"
        builder = SparkSession.builder.master("local[1]")
        return builder.config(map=options).getOrCreate()


def has_bigquery_connector() -> bool:
    return bool(list(JARS.glob("spark-*bigquery*.jar")))


def require_bigquery_connector() -> None:
    """Raises Failure, with the remedy, when Spark has no connector to BigQuery.

    Spark itself prints DATA_SOURCE_NOT_FOUND below a hundred lines of Java.
    """
    if not has_bigquery_connector():
        raise Failure(
            f"Spark cannot reach BigQuery: there is no connector in {JARS}. The build of this image"
            " could not reach a Maven repository. Set MAVEN_REPOSITORY to a repository with the jar"
            " of locations/warehouse/jars.lock, and build the image again.",
            allow_retries=False,
        )


def connector_options(bigquery: Mapping[str, Any]) -> dict[str, str]:
    """The options of the connector, as Spark's configuration.

    Dagster's I/O manager passes only the table. All other options must be here.
    """
    options = {
        "parentProject": bigquery["project"],
        # With the defaults, the connector waits minutes for a store that does not answer.
        "httpMaxRetry": "2",
        "httpConnectTimeout": str(CONNECT_SECONDS * 1000),
        "createReadSessionTimeoutInSeconds": str(3 * CONNECT_SECONDS),
    }
    if "emulator" in bigquery:
        options |= {
            "bigQueryHttpEndpoint": bigquery["emulator"],
            "bigQueryStorageGrpcEndpoint": bigquery["storage_emulator"],
            "gcpAccessToken": "none",
            # DataFrame.count() would read the table with a query's results, which bqemulator lacks.
            "optimizedEmptyProjection": "false",
        }
    return {f"spark.datasource.bigquery.{name}": value for name, value in options.items()}


def trust_store(address: str) -> Path:
    """A Java trust store with the certificate that the server at this address presents.

    Only for the emulator. It has TLS because the connector supports nothing else.
    """
    host, _, port = address.partition(":")
    try:
        shown = ssl.get_server_certificate((host, int(port)), timeout=CONNECT_SECONDS)
    except OSError as error:
        raise Failure(f"BigQuery's Storage API at {address} does not answer: {error}") from error
    entry = pkcs12.PKCS12Certificate(x509.load_pem_x509_certificate(shown.encode()), b"bigquery")
    store = Path(tempfile.mkdtemp(), "trust.p12")
    store.write_bytes(pkcs12.serialize_java_truststore([entry], NoEncryption()))
    return store
