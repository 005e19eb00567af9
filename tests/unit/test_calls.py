"""Between two polls, the queue and the sensors wait for calls."""

import threading
import time

import pytest

from control_plane.calls import BACKFILLS, QUEUE, SENSORS, Calls, UntilCalled
from support import ROOT


def test_a_call_ends_the_wait_and_counts_once():
    calls = Calls("")
    calls.called[QUEUE].set()
    assert list(calls.wait(3600)) == []
    assert not calls.called[QUEUE].is_set()


def test_without_a_call_the_wait_ends_after_the_interval():
    assert list(Calls("").wait(0)) == []


def test_while_it_waits_the_daemon_can_note_that_it_is_alive():
    calls = Calls("")
    alive = calls.wait(3600)
    next(alive)
    next(alive)
    calls.called[QUEUE].set()
    assert list(alive) == []


@pytest.mark.parametrize("ends", ["the daemon's end", "a call"])
def test_a_call_and_the_daemon_s_end_end_the_wait_of_the_sensors(ends):
    events = {"the daemon's end": threading.Event(), "a call": threading.Event()}
    until = UntilCalled(*events.values())
    events[ends].set()
    begun = time.monotonic()
    assert until.wait(3600) == until.is_set() == (ends == "the daemon's end")
    assert time.monotonic() < begun + 60
    assert not events["a call"].is_set()


def test_without_a_call_the_wait_of_the_sensors_ends_after_the_interval():
    assert not UntilCalled(threading.Event(), threading.Event()).wait(0.01)


@pytest.mark.parametrize("channel", [QUEUE, SENSORS, BACKFILLS])
def test_postgres_calls_on_the_channel_that_the_daemon_listens_to(channel):
    assert f"wake('{channel}')" in (ROOT / "control_plane/postgres/notifications.sql").read_text()
