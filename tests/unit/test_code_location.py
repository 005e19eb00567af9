"""The seed's first objects, in this process: no Docker, no database."""

import importlib

import pytest
from dagster import AssetKey, DagsterInstance, DefaultScheduleStatus, RunConfig, materialize

from code_location.definitions import defs
from code_location.defs.notifications.jobs import Message
from code_location.defs.numbers import assets as numbers
from code_location.defs.numbers.checks import sums_add_up
from code_location.defs.report.assets import numbers_report
from control_plane.code_server import put_in
from support import ROOT

NUMBERS = {
    "generated_numbers",
    "filtered_even_numbers",
    "filtered_odd_numbers",
    "summed_even_numbers",
    "summed_odd_numbers",
    "summed_two_sums",
}


@pytest.fixture(scope="module")
def definitions():
    return defs()


def test_the_op_job_computes_55(definitions):
    result = definitions.resolve_job_def("process_numbers").execute_in_process()
    assert result.output_for_node("sum_two_sums") == 55


def test_the_asset_job_computes_55_and_materializes_all_six(definitions):
    with DagsterInstance.ephemeral() as instance:
        result = definitions.resolve_job_def("process_numbers_asset").execute_in_process(
            instance=instance
        )
        materialized = {event.asset_key.to_user_string() for event in
                        result.get_asset_materialization_events()}  # fmt: skip
    assert materialized == NUMBERS
    assert result.asset_value("summed_two_sums") == 55


def test_every_step_runs_in_the_run_s_own_process(monkeypatch):
    """A process per step costs two seconds each, and the run has a container to itself."""
    monkeypatch.setattr(put_in, "PROJECT", ROOT / "code_location")
    served = importlib.import_module("control_plane.code_server.served").defs()
    for name in ("process_numbers", "process_numbers_asset"):
        assert served.resolve_job_def(name).executor_def.name == "in_process"


def test_the_op_job_carries_its_tag_and_description(definitions):
    job = definitions.resolve_job_def("process_numbers")
    assert job.tags["domain"] == "numbers"
    assert job.description == "Process numbers"
    assert all(node.definition.description for node in job.graph.nodes)


def test_the_assets_are_described_grouped_and_of_kind_python(definitions):
    graph = definitions.resolve_asset_graph()
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} >= NUMBERS
    for name in NUMBERS:
        node = graph.get(AssetKey(name))
        assert node.group_name == "numbers"
        assert node.description
        assert node.kinds == {"python"}


def test_the_check_passes_on_what_the_assets_compute_and_fails_on_anything_else():
    assert sums_add_up(55, [1, 2, 52]).passed
    assert not sums_add_up(54, [1, 2, 52]).passed


def test_a_partition_sums_the_numbers_up_to_its_day(definitions):
    result = definitions.resolve_job_def("process_day").execute_in_process(
        partition_key="2026-02-10"
    )
    assert result.asset_value("sum_of_the_day") == 55


def test_an_asset_made_of_several_ops_runs_each_of_them():
    with DagsterInstance.ephemeral() as instance:
        result = materialize([numbers.generated_numbers, numbers_report], instance=instance)
        assert result.asset_value("numbers_report") == "10 numbers from 1 to 10"
    steps = {event.step_key for event in result.filter_events(lambda e: e.is_step_success)}
    assert {"numbers_report.count", "numbers_report.extremes", "numbers_report.describe"} <= steps


def test_every_definition_of_ours_is_described(definitions):
    repository = definitions.get_repository_def()
    described = [*repository.get_all_jobs(), *repository.sensor_defs, *repository.schedule_defs]
    # As the seed document writes them, and as Dagster makes it.
    without = {"process_numbers_asset", "default_automation_condition_sensor"}
    without |= {"process_numbers_every_minute", "process_numbers_asset_every_minute"}
    names = {d.name for d in described if not d.description and not d.name.startswith("__")}
    assert names <= without


def test_schedules_and_sensors_are_off_by_default(definitions):
    repository = definitions.get_repository_def()
    assert repository.sensor_defs
    for definition in [*repository.sensor_defs, *repository.schedule_defs]:
        assert definition.default_status.value == "STOPPED", definition.name


def test_without_a_webhook_a_notification_is_logged(definitions, monkeypatch):
    monkeypatch.setenv("NOTIFICATION_WEBHOOK_URL", "")
    config = RunConfig(ops={"post_message": Message(text="hello")})
    assert definitions.resolve_job_def("notify").execute_in_process(run_config=config).success


@pytest.mark.parametrize("job", ["process_numbers", "process_numbers_asset"])
def test_each_job_has_an_every_minute_schedule_that_is_off(definitions, job):
    schedule = definitions.resolve_schedule_def(f"{job}_every_minute")
    assert schedule.job_name == job
    assert schedule.cron_schedule == "* * * * *"
    assert schedule.default_status == DefaultScheduleStatus.STOPPED
