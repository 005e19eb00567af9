"""Between two polls, the queue waits for calls."""

from control_plane.enqueued import CHANNEL, Calls
from support import ROOT


def test_a_call_ends_the_wait_and_counts_once():
    calls = Calls("")
    calls.called.set()
    assert list(calls.wait(3600)) == []
    assert not calls.called.is_set()


def test_without_a_call_the_wait_ends_after_the_interval():
    assert list(Calls("").wait(0)) == []


def test_while_it_waits_the_daemon_can_note_that_it_is_alive():
    calls = Calls("")
    alive = calls.wait(3600)
    next(alive)
    next(alive)
    calls.called.set()
    assert list(alive) == []


def test_postgres_calls_on_the_channel_that_the_daemon_listens_to():
    assert f"NOTIFY {CHANNEL};" in (ROOT / "control_plane/postgres/notifications.sql").read_text()
