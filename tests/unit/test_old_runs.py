"""Which old runs the daemon deletes, and in which order; what is needed is asked of Postgres."""

from types import SimpleNamespace

import pytest
from dagster import DagsterInstance, job, op

from control_plane import old_runs
from control_plane.old_runs import NEEDED, OldRuns

DAY = 24 * 3600
KEYED = {"dagster/run_key": "a file", "dagster/sensor_name": "inbox_files"}


@op
def work():
    return 1


@job
def one():
    work()


@pytest.fixture
def instance(tmp_path):
    with DagsterInstance.local_temp(str(tmp_path)) as made:
        yield made


@pytest.fixture
def runs(instance, monkeypatch):
    """A keeper of old runs, whose questions to Postgres are answered here."""
    keeper = OldRuns(instance, 90 * DAY)
    keeper.needed = set()

    def select(query, asked):
        if query is NEEDED:
            return keeper.needed
        return {run.run_id for run in asked if instance.all_logs(run.run_id)}

    monkeypatch.setattr(keeper, "_select", select)
    return keeper


@pytest.fixture
def made(instance):
    """Makes runs that have ended."""

    def make(**tags):
        return one.execute_in_process(instance=instance, tags=tags).run_id

    return make


def later(days):
    return old_runs.datetime.now().timestamp() + days * DAY


def left(instance):
    return {run.run_id for run in instance.get_runs()}


def test_a_run_stays_until_its_time_is_over(instance, runs, made):
    run = made()
    runs.tidy(later(89))
    assert left(instance) == {run}
    runs.tidy(later(91))
    assert left(instance) == set()
    assert runs.deleted == 1
    assert not instance.all_logs(run)


def test_forever_is_forever(instance, made):
    run = made()
    OldRuns(instance, None).tidy(later(9000))
    assert left(instance) == {run}


def test_its_logs_and_stored_outputs_go_as_well(instance, runs, made, tmp_path):
    run, other = made(), "00000000-0000-0000-0000-000000000000"
    for name in (run, other):
        (tmp_path / "storage" / name / "work").mkdir(parents=True, exist_ok=True)
    assert {path.name for path in tmp_path.rglob(run)} == {run}
    runs.tidy(later(91))
    assert not list(tmp_path.rglob(run))
    assert list(tmp_path.rglob(other))


def test_its_outputs_in_an_object_store_go_as_well(runs, made, monkeypatch):
    run, deleted = made(), []
    store = SimpleNamespace(delete_below=lambda *parts: deleted.append(parts))
    monkeypatch.setattr(old_runs.object_store, "configured", lambda: store)
    runs.tidy(later(91))
    assert deleted == [("outputs", run)]


def test_a_run_that_is_needed_stays_and_one_that_goes_on_too(instance, runs, made):
    needed, goes_on = made(), instance.create_run_for_job(one).run_id
    runs.needed = {needed}
    runs.tidy(later(91))
    assert left(instance) == {needed, goes_on}
    assert instance.all_logs(needed)


def test_a_sensor_s_run_stays_in_the_list_so_that_the_sensor_does_not_launch_it_again(
    instance, runs, made
):
    run = made(**KEYED)
    runs.tidy(later(91))
    assert left(instance) == {run}
    assert not instance.all_logs(run)
    assert instance.get_run_by_id(run).tags["docker/events"] == "deleted, KEEP_RUNS in .env"
    runs.tidy(later(93))
    assert runs.deleted == 1


def test_a_pass_goes_over_all_old_runs_in_batches_and_then_rests_for_a_day(
    instance, runs, made, monkeypatch
):
    monkeypatch.setattr(old_runs, "BATCH", 2)
    runs.needed = {made(), made()}
    for _ in range(5):
        made()
    for _ in range(4):
        runs.tidy(later(91))
    assert left(instance) == runs.needed
    late = made()
    runs.tidy(later(91.5))
    assert late in left(instance)
    for _ in range(2):
        runs.tidy(later(92.1))
    assert left(instance) == runs.needed


def test_files_that_cannot_be_deleted_hold_up_no_other_run(
    instance, runs, made, monkeypatch, caplog
):
    stuck, fine = made(), made()
    delete = instance.compute_log_manager.delete_logs

    def refuse(prefix):
        if prefix == [stuck]:
            raise PermissionError("not yours")
        return delete(prefix=prefix)

    monkeypatch.setattr(instance.compute_log_manager, "delete_logs", refuse)
    runs.tidy(later(91))
    assert left(instance) == {stuck}
    assert fine not in left(instance)
    assert f"the files of run {stuck} cannot be deleted, and it stays" in caplog.text
