"""I/O managers for BigQuery that fail in seconds and name the store that failed.

If no server answers, Google's Python client repeats a request for ten minutes, and the Java client
in Spark's connector for twenty. Spark prints the reason below a hundred lines of Java.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dagster import Failure, InputContext, IOManager, OutputContext, ResourceDependency
from dagster_gcp_pandas import BigQueryPandasIOManager
from dagster_gcp_pyspark import BigQueryPySparkIOManager
from google.api_core.exceptions import GoogleAPIError
from google.cloud import bigquery
from py4j.protocol import Py4JJavaError
from pyspark import SparkContext
from requests import RequestException

from warehouse_location.defs.stores.spark import Spark, require_bigquery_connector

# The prefix of the classes of Google's client inside the connector.
REPACKAGED = "com.google.cloud.spark.bigquery.repackaged."
ANSWER_SECONDS = 10
WATCH_SECONDS = 5
# Not one: a single missing answer can be a fault of the network.
ANSWERS_MISSED = 3


class BigQuery(IOManager):
    """Calls Dagster's I/O manager after BigQuery has answered a test query."""

    def __init__(self, manager: IOManager, project: str, dataset: str, spark: Spark | None) -> None:
        self.manager = manager
        self.project = project
        self.dataset = dataset
        self.spark = spark

    def handle_output(self, context: OutputContext, obj: object) -> None:
        """Raises Failure when BigQuery does not answer, or refuses through Spark."""
        with self._prepared(f"write {table(context)}"):
            self.manager.handle_output(context, obj)

    def load_input(self, context: InputContext) -> object:
        """Raises Failure when BigQuery does not answer, or refuses through Spark."""
        with self._prepared(f"read {table(context)}"):
            return self.manager.load_input(context)

    @contextmanager
    def _prepared(self, action: str) -> Iterator[None]:
        if self.spark:
            require_bigquery_connector()
        ask(self.project)
        if self.spark is None:
            yield
            return
        try:
            # Dagster's I/O manager uses the session that exists, or starts one.
            with ended_with_bigquery(self.spark.session().sparkContext, self.project):
                yield
        except Py4JJavaError as error:
            raise Failure(
                f"Spark could not {action} in BigQuery, dataset {self.project}.{self.dataset}:"
                f" {root_cause(error)}"
            ) from error


class BigQueryPandas(BigQueryPandasIOManager):
    """BigQueryPandasIOManager that fails in seconds when BigQuery does not answer."""

    def create_io_manager(self, context: object) -> IOManager:
        """See BigQuery."""
        return BigQuery(super().create_io_manager(context), self.project, self.dataset or "", None)


class BigQuerySpark(BigQueryPySparkIOManager):
    """BigQueryPySparkIOManager that uses the resource Spark and names the store in its errors."""

    spark: ResourceDependency[Spark]

    def create_io_manager(self, context: object) -> IOManager:
        """See BigQuery."""
        manager = super().create_io_manager(context)
        return BigQuery(manager, self.project, self.dataset or "", self.spark)


def table(context: InputContext | OutputContext) -> str:
    """The name of an asset, or of the output of an op."""
    return context.asset_key.path[-1] if context.has_asset_key else context.name


def ask(project: str) -> None:
    """Asks BigQuery once to check a query, which costs nothing.

    Raises Failure when BigQuery does not answer or refuses the query.
    """
    only_check = bigquery.QueryJobConfig(dry_run=True, use_query_cache=False)
    client = bigquery.Client(project=project)
    try:
        client.query("SELECT 1", only_check, retry=None, job_retry=None, timeout=ANSWER_SECONDS)
    except GoogleAPIError as error:
        raise Failure(f"BigQuery refuses queries in the project {project}: {error}") from error
    except RequestException as error:
        raise Failure(f"BigQuery does not answer: {error}") from error


@contextmanager
def ended_with_bigquery(spark: SparkContext, project: str) -> Iterator[None]:
    """Cancels Spark's jobs and raises Failure when BigQuery stops answering.

    The connector repeats a write request for twenty minutes and has no option to change that.
    """
    done = threading.Event()
    missed: list[Failure] = []

    def watch() -> None:
        while len(missed) < ANSWERS_MISSED and not done.wait(WATCH_SECONDS):
            try:
                ask(project)
                missed.clear()
            except Failure as failure:
                missed.append(failure)
        if not done.is_set():
            spark.cancelAllJobs()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except Py4JJavaError as error:
        if len(missed) == ANSWERS_MISSED:
            raise missed[-1] from error
        raise
    finally:
        done.set()
        watcher.join()


def root_cause(error: Py4JJavaError) -> str:
    """The first cause of a Java exception, in one line."""
    cause = error.java_exception
    while cause.getCause() is not None:
        cause = cause.getCause()
    return " ".join(str(cause.toString()).removeprefix(REPACKAGED).split())
