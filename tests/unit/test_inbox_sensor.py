import json
import os
import time

import pytest
from dagster import SkipReason, build_sensor_context

from code_location.defs.inbox import sensors


@pytest.fixture
def inbox(tmp_path, monkeypatch):
    monkeypatch.setattr(sensors, "INBOX", tmp_path)
    monkeypatch.setattr(sensors, "SETTLED_SECONDS", 0)
    return tmp_path


def tick(cursor=None):
    """One evaluation: the names of the files it asks runs for, and the cursor after it."""
    result = sensors.inbox_files(build_sensor_context(cursor=cursor))
    if isinstance(result, SkipReason):
        return [], cursor
    return [request.tags["inbox/file"] for request in result.run_requests], result.cursor


def test_each_file_is_asked_for_once(inbox):
    (inbox / "a.txt").write_text("1")
    first, cursor = tick()
    (inbox / "b.txt").write_text("2")
    second, cursor = tick(cursor)
    assert (first, second, tick(cursor)[0]) == (["a.txt"], ["b.txt"], [])


def test_a_file_written_anew_is_asked_for_again(inbox):
    (inbox / "a.txt").write_text("1")
    _, cursor = tick()
    (inbox / "a.txt").write_text("1\n2")
    assert tick(cursor)[0] == ["a.txt"]


def test_more_files_than_a_batch_are_all_asked_for_once(inbox):
    names = {f"{i}.txt" for i in range(3 * sensors.BATCH + 7)}
    for name in names:
        (inbox / name).write_text(name)
    asked, cursor = [], None
    for _ in range(5):
        batch, cursor = tick(cursor)
        assert len(batch) <= sensors.BATCH
        asked += batch
    assert sorted(asked) == sorted(names)


def test_a_file_of_the_same_instant_that_was_not_there_before_is_not_missed(inbox, monkeypatch):
    """The kernel's clock ticks every few milliseconds; what sorts first may arrive last."""
    instant = time.time()
    real_stat = sensors.Path.stat

    def stat(self, **options):
        values = list(real_stat(self, **options))
        values[7:10] = [instant, instant, instant]
        return os.stat_result(values)

    monkeypatch.setattr(sensors.Path, "stat", stat)
    (inbox / "bb.txt").write_text("1")
    first, cursor = tick()
    (inbox / "a.txt").write_text("1")
    assert (first, tick(cursor)[0]) == (["bb.txt"], ["a.txt"])


def test_a_file_that_still_changes_and_one_with_a_dot_are_left_alone(inbox, monkeypatch):
    (inbox / "a.txt").write_text("1")
    (inbox / ".hidden").write_text("1")
    monkeypatch.setattr(sensors, "SETTLED_SECONDS", 60)
    assert tick()[0] == []
    monkeypatch.setattr(sensors, "SETTLED_SECONDS", 0)
    assert tick()[0] == ["a.txt"]


def test_the_cursor_forgets_files_that_cannot_come_again(inbox, monkeypatch):
    """Else it would grow with every file that ever arrived."""
    monkeypatch.setattr(sensors, "OVERLAP_SECONDS", 0)
    (inbox / "a.txt").write_text("1")
    _, cursor = tick()
    time.sleep(0.02)  # more than a tick of the kernel's clock
    (inbox / "b.txt").write_text("1")
    _, cursor = tick(cursor)
    (key,) = json.loads(cursor)["seen"]
    assert "b.txt" in key


def test_a_missing_folder_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(sensors, "INBOX", tmp_path / "none")
    assert "none" in sensors.inbox_files(build_sensor_context()).skip_message
