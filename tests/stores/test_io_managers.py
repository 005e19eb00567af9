"""Each I/O manager against a real server: one run writes, another run's container reads.

The table of which works with which executor (docs/architecture.md, I/O manager) is what is tested
here.
"""

import pytest
from harness import docker

LOCATION = "warehouse_location"
PICKLED = ["filesystem", "s3", "gcs"]


def metadata(stack, run):
    """The metadata of what a run materialized, by label."""
    return {
        entry["label"]: int(entry["intRepr"]) if "intRepr" in entry else entry.get("text")
        for event in stack.events(run)
        for entry in event.get("metadataEntries") or []
    }


def materialize(stack, asset, **options):
    return stack.run("__ASSET_JOB", assets=[asset], location=LOCATION, **options)


def error_of(stack, run):
    """Everything that a failed run says about why."""
    return "\n".join(
        "\n".join([error["message"], *(cause["message"] for cause in error["causes"])])
        for event in stack.events(run)
        if (error := event.get("error"))
    )


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


def test_a_data_frame_goes_to_bigquery_and_comes_back(warehouse):
    materialize(warehouse, "pandas_numbers")
    assert metadata(warehouse, materialize(warehouse, "pandas_sum"))["sum"] == 55


@pytest.mark.parametrize("manager", PICKLED)
def test_stores_work_across_the_processes_of_one_run(warehouse, manager):
    run = warehouse.run(f"{manager}_in_several_processes", location=LOCATION)
    assert metadata(warehouse, run)["sum"] == 55


def test_in_memory_works_within_one_run(warehouse):
    run = warehouse.run(
        "__ASSET_JOB", assets=["in_memory_numbers", "in_memory_sum"], location=LOCATION
    )
    assert metadata(warehouse, run)["sum"] == 55


def test_in_memory_is_refused_from_one_run_to_the_next(warehouse):
    materialize(warehouse, "in_memory_numbers")
    reader = warehouse.launch("__ASSET_JOB", assets=["in_memory_sum"], location=LOCATION)
    assert warehouse.finished(reader) == "FAILURE"
    assert "in_memory keeps values in one process" in error_of(warehouse, reader)


def test_in_memory_is_refused_across_the_processes_of_one_run(warehouse):
    run = warehouse.launch("in_memory_in_several_processes", location=LOCATION)
    assert warehouse.finished(run) == "FAILURE"
    assert "in_memory keeps values in one process" in error_of(warehouse, run)


def test_spark_starts_and_the_missing_connector_is_named_with_what_to_do(warehouse):
    """The jar cannot be had here; everything up to it is real (warehouse_location/jars)."""
    run = warehouse.launch("__ASSET_JOB", assets=["pyspark_numbers"], location=LOCATION)
    assert warehouse.finished(run, 180) == "FAILURE"
    messages = [event.get("message") or "" for event in warehouse.events(run)]
    assert any(m.startswith("Spark 3.5") and m.endswith("counts 10 rows") for m in messages)
    assert "Spark cannot reach BigQuery: there is no connector" in error_of(warehouse, run)
    assert "warehouse_location/jars/" in error_of(warehouse, run)


def test_large_data_goes_by_reference(warehouse):
    """Only the path passes through the I/O manager; the reader reads lazily."""
    config = {"ops": {"large_table": {"config": {"rows": 200_000}}}}
    written = warehouse.run("large_write", config=config, location=LOCATION)
    path = metadata(warehouse, written)["table"]
    inside = docker("exec", warehouse.container_of("s3"), "ls", f"/data/{path}")
    assert inside.strip() == f"/data/{path}"
    read = warehouse.run("large_read", location=LOCATION)
    assert metadata(warehouse, read)["sum"] == 200_000 * 199_999 // 2
