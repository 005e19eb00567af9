"""A run waits for Postgres, and its values are written whole or not at all."""

import os
import pickle
from inspect import getmembers, isfunction
from pathlib import PosixPath
from unittest.mock import Mock

import psycopg2
import pytest
from dagster import DagsterInstance, asset, materialize
from dagster._core.storage.fs_io_manager import PickledObjectFilesystemIOManager
from dagster._utils import PICKLE_PROTOCOL
from dagster_postgres import utils
from dagster_postgres.event_log import PostgresEventLogStorage
from dagster_postgres.run_storage import PostgresRunStorage
from sqlalchemy.exc import DatabaseError, DBAPIError, InterfaceError, OperationalError

from control_plane.code_server import patience
from control_plane.code_server.whole_values import folder_of_new, write_whole_values


def lost(invalidated=True):
    return OperationalError("INSERT", {}, Exception("server closed the connection"), None,
                            connection_invalidated=invalidated)  # fmt: skip


@pytest.fixture
def clock(monkeypatch):
    """Seconds that have been slept."""
    slept = []
    monkeypatch.setattr(patience.time, "sleep", slept.append)
    monkeypatch.setattr(patience.time, "monotonic", lambda: sum(slept))
    return slept


def test_a_run_waits_for_postgres_longer_than_dagster_does(clock):
    connect = Mock(side_effect=[lost()] * 90 + ["a connection"])
    assert patience.connected(connect) == "a connection"
    assert sum(clock) == 90


@pytest.mark.parametrize("error", [psycopg2.InterfaceError, psycopg2.OperationalError])
def test_a_run_waits_also_if_postgres_ends_before_the_first_statement_of_a_connection(clock, error):
    connect = Mock(side_effect=[error("connection already closed"), "a connection"])
    assert patience.connected(connect) == "a connection"
    assert clock == [patience.PAUSE_SECONDS]


@pytest.mark.parametrize("kind", [DBAPIError, DatabaseError, InterfaceError, OperationalError])
def test_whatever_kind_of_error_the_end_of_a_connection_is_the_call_is_repeated(clock, kind):
    ended = kind("SELECT", {}, Exception("closed"), None, connection_invalidated=True)
    assert patience._repeated(Mock(side_effect=[ended, "stored"]))() == "stored"
    assert clock == [patience.PAUSE_SECONDS]


def test_a_run_does_not_wait_for_ever(clock):
    with pytest.raises(utils.DagsterPostgresException, match="no connection to Postgres for 300 s"):
        patience.connected(Mock(side_effect=lost()))
    assert sum(clock) <= patience.WAIT_SECONDS + patience.PAUSE_SECONDS


def test_a_run_whose_password_is_refused_names_the_rotation_that_was_interrupted(clock, caplog):
    said = 'FATAL:  password authentication failed for user "dagster_code"'
    refused = OperationalError("SELECT", {}, psycopg2.OperationalError(said))
    with pytest.raises(utils.DagsterPostgresException, match=r"300 s .*interrupted: make rotate"):
        patience.connected(Mock(side_effect=refused))
    assert "waiting for Postgres (a rotation of passwords goes on" in caplog.text
    caplog.clear()
    patience.connected(Mock(side_effect=[lost(), "a connection"]))
    assert "rotation" not in caplog.text


def test_a_write_whose_connection_ends_is_repeated_and_another_error_is_not(clock):
    write = Mock(side_effect=[lost(), "stored"])
    assert patience._repeated(write)("event", index=1) == "stored"
    write.assert_called_with("event", index=1)
    with pytest.raises(OperationalError):
        patience._repeated(Mock(side_effect=lost(invalidated=False)))()
    assert clock == [patience.PAUSE_SECONDS]
    with pytest.raises(OperationalError):
        patience._repeated(Mock(side_effect=lost()))()
    assert sum(clock) <= patience.WAIT_SECONDS + 3 * patience.PAUSE_SECONDS


def test_a_write_for_which_there_is_no_space_is_repeated(clock):
    full = OperationalError("INSERT", {}, Mock(spec=Exception, pgcode="53100"))
    write = Mock(side_effect=[full, full, "stored"])
    assert patience._repeated(write)() == "stored"
    assert clock == [patience.PAUSE_SECONDS] * 2


class Dies:
    """A value whose writing ends in the middle."""

    def __reduce__(self):
        raise MemoryError


@pytest.fixture
def whole_values(monkeypatch):
    upstream = PickledObjectFilesystemIOManager.dump_to_path
    monkeypatch.setattr(PickledObjectFilesystemIOManager, "dump_to_path", upstream)
    write_whole_values()


@pytest.mark.usefixtures("whole_values")
def test_a_value_stays_as_it_was_when_the_next_one_is_not_written_to_its_end(tmp_path):
    value = ["first"]

    @asset
    def written():
        return value

    with DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        assert materialize([written], instance=instance).success
        value.extend(["x" * 100_000, Dies()])
        assert not materialize([written], instance=instance, raise_on_error=False).success
    (file,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert file.read_bytes() == pickle.dumps(["first"], PICKLE_PROTOCOL)


def test_what_a_killed_run_left_goes_after_a_day_and_what_is_being_written_stays(tmp_path):
    folder = folder_of_new(PosixPath(tmp_path))
    left, written = folder / "left", folder / "written"
    for file in (left, written):
        file.touch()
    os.utime(left, (0, 0))
    folder_of_new(PosixPath(tmp_path))
    assert list(folder.iterdir()) == [written]


def test_what_a_run_reads_is_read_again_when_its_connection_has_ended(clock, monkeypatch):
    """Seen when Postgres was killed: a question for a table ended a run."""
    monkeypatch.setattr(utils, "retry_pg_connection_fn", None)
    answers = Mock(side_effect=[lost(), lost(), True])
    for storage, name in patience.WRITES:
        monkeypatch.setattr(storage, name, getattr(storage, name))
    for storage in (PostgresEventLogStorage, PostgresRunStorage):
        for name, function in getmembers(storage, isfunction):
            if name.startswith(patience.READS):
                monkeypatch.setattr(storage, name, function)
    monkeypatch.setattr(PostgresEventLogStorage, "has_table", lambda _, name: answers(name))
    patience.wait_for_postgres()
    once = PostgresEventLogStorage.has_table
    patience.wait_for_postgres()  # a run container calls it before and after it loads its code
    assert PostgresEventLogStorage.has_table is once
    assert PostgresEventLogStorage.has_table(Mock(), "asset_keys") is True
    assert clock == [patience.PAUSE_SECONDS] * 2
