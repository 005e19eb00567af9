"""A failed run is launched again also when its failure is seen before its status has changed."""

from types import SimpleNamespace
from unittest.mock import Mock

from dagster._daemon.auto_run_reexecution import event_log_consumer

from control_plane import retries


def record(*, is_finished):
    return SimpleNamespace(dagster_run=SimpleNamespace(run_id="a", is_finished=is_finished))


def test_a_run_is_read_again_until_it_has_the_status_of_its_event(monkeypatch):
    monkeypatch.setattr(retries, "PAUSE_SECONDS", 0)
    early, late = [record(is_finished=False)], [record(is_finished=True)]
    instance = Mock(**{"get_run_records.side_effect": [early, late]})
    assert retries.records_of_ended(instance, early) == late
    assert instance.get_run_records.call_count == 2


def test_a_run_that_has_ended_is_not_read_again():
    instance, records = Mock(), [record(is_finished=True)]
    assert retries.records_of_ended(instance, records) == records
    instance.get_run_records.assert_not_called()


def test_a_run_whose_status_does_not_change_holds_nothing_up(monkeypatch):
    monkeypatch.setattr(retries, "WAIT_SECONDS", 0.05)
    records = [record(is_finished=False)]
    instance = Mock(**{"get_run_records.return_value": records})
    assert retries.records_of_ended(instance, records) == records


def test_the_daemon_s_retry_thread_gets_the_runs_that_have_ended(monkeypatch):
    got = []
    name = "consume_new_runs_for_automatic_reexecution"
    monkeypatch.setattr(event_log_consumer, name, lambda _, runs, __: iter(got.append(runs) or ()))
    monkeypatch.setattr(retries, "PAUSE_SECONDS", 0)
    retries.wait_for_statuses()
    late = [record(is_finished=True)]
    context = Mock(**{"instance.get_run_records.return_value": late})
    (handler,) = event_log_consumer.EventLogConsumerDaemon().handle_updated_runs_fns
    assert list(handler(context, [record(is_finished=False)], Mock())) == []
    assert got == [late]
