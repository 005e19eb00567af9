"""Each I/O manager against a real server: one run writes, another run's container reads.

The table of which works with which executor (docs/architecture.md, I/O manager) is what is tested
here.
"""

import base64
import json
import re
import subprocess

import pytest

from support.cli import docker

LOCATION = "warehouse_location"
PICKLED = ["filesystem", "s3", "gcs"]
DATA_FRAMES = [
    pytest.param("pandas", marks=pytest.mark.whole),
    pytest.param("pyspark", marks=pytest.mark.release),
]
# The images alone take minutes to build.
# A run with Spark takes 40 seconds, on a busy machine twice as long.
SPARK_SECONDS = 240
# Run in the emulator's container: prints the answer to a query, as BigQuery's REST API gives it.
QUERY = """
import json, sys, urllib.request
body = json.dumps({"query": sys.argv[1], "useLegacySql": False}).encode()
request = urllib.request.Request(
    "http://127.0.0.1:9050/bigquery/v2/projects/dagster/queries", body,
    {"Content-Type": "application/json"},
)
print(urllib.request.urlopen(request).read().decode())
"""


def metadata(stack, run):
    """The metadata of what a run materialized, by label."""
    return {
        entry["label"]: int(entry["intRepr"]) if "intRepr" in entry else entry.get("text")
        for event in stack.events(run)
        for entry in event.get("metadataEntries") or []
    }


def materialize(stack, asset, **options):
    return stack.run("__ASSET_JOB", assets=[asset], location=LOCATION, **options)


def materialize_day(stack, day, rows):
    config = {"ops": {"pyspark_days": {"config": {"rows": rows}}}}
    options = {"tags": {"dagster/partition": day}, "config": config, "seconds": SPARK_SECONDS}
    return materialize(stack, "pyspark_days", **options)


def fails(stack, asset, **options):
    """Materializes an asset that cannot be; returns everything that the run says about why."""
    run = stack.launch("__ASSET_JOB", assets=[asset], location=LOCATION, **options)
    assert stack.finished(run, SPARK_SECONDS) == "FAILURE"
    return error_of(stack, run)


def in_bigquery(stack, columns, table):
    """The types and the rows of columns of a table, from BigQuery's REST API."""
    query = f"SELECT {columns} FROM numbers.{table}"
    client = "python", "-c", QUERY, query
    answer = json.loads(docker("exec", stack.container_of("bigquery"), *client))
    types = [field["type"] for field in answer["schema"]["fields"]]
    return types, [[cell["v"] for cell in row["f"]] for row in answer["rows"]]


def somewhere_else(manager, **place):
    """Configuration of a run whose I/O manager looks in another dataset or project."""
    none = dict.fromkeys(["client_id", "client_secret", "refresh_token", "token"], "none")
    nobody = {"type": "authorized_user", "expiry": "2099-01-01T00:00:00Z", **none}
    place = {"project": "dagster", "dataset": "numbers", **place}
    place["gcp_credentials"] = base64.b64encode(json.dumps(nobody).encode()).decode()
    return {"resources": {f"bigquery_{manager}": {"config": place}}}


def error_of(stack, run):
    """Everything that a failed run says about why."""
    return "\n".join(
        "\n".join([error["message"], *(cause["message"] for cause in error["causes"])])
        for event in stack.events(run)
        if (error := event.get("error"))
    )


@pytest.mark.whole
def test_two_code_locations_run_their_runs_in_their_own_images(warehouse):
    image = {
        location: warehouse.inspect(warehouse.container_of(location))["Image"]
        for location in ("code_location", LOCATION)
    }
    here = materialize(warehouse, "filesystem_numbers")
    there = warehouse.run("process_numbers")
    containers = warehouse.run_containers()
    assert warehouse.inspect(containers[here])["Image"] == image[LOCATION]
    assert warehouse.inspect(containers[there])["Image"] == image["code_location"]


@pytest.mark.whole
@pytest.mark.parametrize("manager", [*PICKLED, "io_manager"])
def test_what_one_run_writes_another_run_reads_and_it_is_in_the_store(warehouse, manager):
    writer = materialize(warehouse, f"{manager}_numbers")
    reader = materialize(warehouse, f"{manager}_sum")
    assert metadata(warehouse, reader)["sum"] == 55
    containers = warehouse.run_containers()
    assert containers[writer] != containers[reader]
    # stores.toml says that the default, io_manager, is s3; no asset says so.
    server = {"s3": "s3", "io_manager": "s3", "gcs": "gcs"}.get(manager)
    if server:
        folder = "/data/dagster/dagster"
        kept = docker("exec", warehouse.container_of(server), "ls", folder).split()
        assert {f"{manager}_numbers", f"{manager}_sum"} <= set(kept)


@pytest.mark.parametrize("manager", DATA_FRAMES)
def test_a_data_frame_goes_to_bigquery_and_another_run_reads_it(warehouse, manager):
    writer = materialize(warehouse, f"{manager}_numbers", seconds=SPARK_SECONDS)
    reader = materialize(warehouse, f"{manager}_sum", seconds=SPARK_SECONDS)
    assert metadata(warehouse, reader)["sum"] == 55
    containers = warehouse.run_containers()
    assert containers[writer] != containers[reader]
    written = in_bigquery(warehouse, "COUNT(*), MIN(number), MAX(number)", f"{manager}_numbers")
    assert written == (["INTEGER"] * 3, [["10", "1", "10"]])
    assert in_bigquery(warehouse, "*", f"{manager}_sum") == (["INTEGER"], [["55"]])


@pytest.mark.release
def test_spark_replaces_one_partition_in_bigquery_and_keeps_every_type(warehouse):
    materialize_day(warehouse, "2026-01-01", rows=2)
    materialize_day(warehouse, "2026-01-02", rows=3)
    materialize_day(warehouse, "2026-01-01", rows=1)
    reader = materialize(warehouse, "pyspark_days_counted", seconds=SPARK_SECONDS)
    read = metadata(warehouse, reader)
    assert read["days"] == "2026-01-01: 1, 2026-01-02: 3"
    assert read["types"] == (
        "struct<day:timestamp,number:bigint,half:double,label:string,even:boolean,date:date,"
        "price:decimal(38,9),raw:binary,pair:array<bigint>,part:struct<name:string,size:bigint>>"
    )
    assert read["first"] == (
        "Row(day=datetime.datetime(2026, 1, 1, 0, 0), number=1, half=0.5, label='row 1',"
        " even=False, date=datetime.date(2026, 1, 1), price=Decimal('0.250000000'),"
        " raw=bytearray(b'\\x00\\xff'), pair=[1, -1], part=Row(name='all', size=1))"
    )
    types, (row,) = in_bigquery(warehouse, "*", "pyspark_days WHERE day < '2026-01-02'")
    assert types == [
        "TIMESTAMP", "INTEGER", "FLOAT", "STRING", "BOOLEAN", "DATE", "NUMERIC", "BYTES", "INTEGER",
        "RECORD",
    ]  # fmt: skip
    assert row[1:4] == ["1", "0.5", "row 1"]


@pytest.mark.whole
@pytest.mark.parametrize("manager", ["s3", "filesystem", "gcs"])
def test_stores_work_across_the_processes_of_one_run(warehouse, manager):
    run = warehouse.run(f"{manager}_in_several_processes", location=LOCATION)
    assert metadata(warehouse, run)["sum"] == 55


@pytest.mark.parametrize("manager", DATA_FRAMES)
def test_bigquery_works_across_the_processes_of_one_run_and_its_table_is_replaced(
    warehouse, manager
):
    """The tests before this one have written the same table."""
    job = f"{manager}_in_several_processes"
    run = warehouse.run(job, location=LOCATION, seconds=SPARK_SECONDS)
    assert metadata(warehouse, run)["sum"] == 55
    assert in_bigquery(warehouse, "COUNT(*)", f"{manager}_numbers") == (["INTEGER"], [["10"]])


@pytest.mark.whole
def test_in_memory_works_within_one_run(warehouse):
    run = warehouse.run(
        "__ASSET_JOB", assets=["in_memory_numbers", "in_memory_sum"], location=LOCATION
    )
    assert metadata(warehouse, run)["sum"] == 55


@pytest.mark.whole
def test_in_memory_is_refused_from_one_run_to_the_next(warehouse):
    materialize(warehouse, "in_memory_numbers")
    reader = warehouse.launch("__ASSET_JOB", assets=["in_memory_sum"], location=LOCATION)
    assert warehouse.finished(reader) == "FAILURE"
    assert "in_memory keeps values in one process" in error_of(warehouse, reader)


@pytest.mark.whole
def test_in_memory_is_refused_across_the_processes_of_one_run(warehouse):
    run = warehouse.launch("in_memory_in_several_processes", location=LOCATION)
    assert warehouse.finished(run) == "FAILURE"
    assert "in_memory keeps values in one process" in error_of(warehouse, run)


@pytest.mark.parametrize("manager", DATA_FRAMES)
def test_a_dataset_that_is_not_there_is_named(warehouse, manager):
    place = somewhere_else(manager, dataset="nowhere")
    error = fails(warehouse, f"{manager}_sum", config=place)
    assert re.search("dagster[.:]nowhere", error)


@pytest.mark.parametrize(
    ("manager", "asset"),
    [
        pytest.param("pandas", "numbers", marks=pytest.mark.whole),
        pytest.param("pyspark", "sum", marks=pytest.mark.release),
    ],
)
def test_a_project_that_is_not_ours_is_named(warehouse, manager, asset):
    place = somewhere_else(manager, project="elsewhere")
    error = fails(warehouse, f"{manager}_{asset}", config=place)
    assert "BigQuery refuses queries in the project elsewhere" in error


@pytest.mark.parametrize("manager", DATA_FRAMES)
def test_a_bigquery_that_does_not_answer_is_named_and_not_waited_for(warehouse, manager):
    """Google's client by itself repeats the request for ten minutes, longer than this waits."""
    docker("stop", warehouse.container_of("bigquery"))
    try:
        error = fails(warehouse, f"{manager}_sum")
    finally:
        warehouse.compose("up", "--detach", "--wait", "bigquery")
    assert "BigQuery does not answer" in error
    assert "host='bigquery'" in error


@pytest.mark.release
def test_without_its_connector_spark_says_what_is_missing(warehouse):
    """As in an image that was built where no Maven repository could be reached."""
    image = warehouse.config["services"][LOCATION]["image"]
    options = "--rm", f"--network={warehouse.name}_runs"
    environment = "--env=SPARK_JARS=/nowhere", "--env=DAGSTER_HOME=/tmp"
    asset = "asset", "materialize", "--select=pyspark_numbers", "-m", f"{LOCATION}.definitions"
    command = "docker", "run", *options, *environment, image, "dagster", *asset
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Spark cannot reach BigQuery: there is no connector in /nowhere" in done.stderr
    assert "Set MAVEN_REPOSITORY" in done.stderr


@pytest.mark.whole
def test_large_data_goes_by_reference(warehouse):
    """Only the path passes through the I/O manager; the reader reads lazily."""
    config = {"ops": {"large_table": {"config": {"rows": 200_000}}}}
    written = warehouse.run("large_write", config=config, location=LOCATION)
    path = metadata(warehouse, written)["table"]
    inside = docker("exec", warehouse.container_of("s3"), "ls", f"/data/{path}")
    assert inside.strip() == f"/data/{path}"
    read = warehouse.run("large_read", location=LOCATION)
    assert metadata(warehouse, read)["sum"] == 200_000 * 199_999 // 2
