"""BigQuery's I/O managers, made to fail in seconds and to say which store failed.

Google's Python client repeats a request that finds no server for ten minutes. The Java client in
Spark's connector does so for twenty. Spark's reason stands below a hundred lines of Java.
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

# How classes of Google's client are named inside the connector.
REPACKAGED = "com.google.cloud.spark.bigquery.repackaged."
ANSWER_SECONDS = 10
WATCH_SECONDS = 5
# One that is missed may be the network's fault.
ANSWERS_MISSED = 3


class BigQuery(IOManager):
    """Passes values on to Dagster's I/O manager once BigQuery has answered."""

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
            # Dagster's I/O manager takes the session that there is, or starts one as Spark has it.
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
    """BigQueryPySparkIOManager with the session of the resource Spark and its errors named."""

    spark: ResourceDependency[Spark]

    def create_io_manager(self, context: object) -> IOManager:
        """See BigQuery."""
        manager = super().create_io_manager(context)
        return BigQuery(manager, self.project, self.dataset or "", self.spark)


def table(context: InputContext | OutputContext) -> str:
    """What a value is called, of an asset or an op."""
    return context.asset_key.path[-1] if context.has_asset_key else context.name


def ask(project: str) -> None:
    """Asks for a query to be checked, which costs nothing; once, and not for ten minutes.

    Raises Failure when nothing answers, or BigQuery refuses.
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
    """Ends Spark's work when BigQuery stops answering. Raises Failure then.

    The connector repeats a request to write for twenty minutes, and has no option for that.
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
    """The Java exception that caused all others, in one line."""
    cause = error.java_exception
    while cause.getCause() is not None:
        cause = cause.getCause()
    return " ".join(str(cause.toString()).removeprefix(REPACKAGED).split())
