"""A daemon that cannot start runs ends (control_plane/only_daemon.py)."""

import socket

import pytest

from control_plane import only_daemon


class Ended(BaseException):
    pass


@pytest.fixture
def ending(monkeypatch):
    """Makes the time short, and the end of the process an exception."""

    def end(status):
        raise Ended

    monkeypatch.setattr(only_daemon.os, "_exit", end)
    monkeypatch.setattr(only_daemon, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(only_daemon, "UNREACHED_SECONDS", 0.1)


@pytest.fixture
def connection():
    one, other = socket.socketpair()
    with one, other:
        yield one


def test_a_daemon_that_does_not_reach_its_engine_for_long_ends(ending, connection):
    with pytest.raises(Ended):
        only_daemon._watch("", connection, lambda: False)


def test_a_daemon_that_reaches_its_engine_now_and_then_goes_on(ending, connection):
    class Enough(BaseException):
        pass

    asked = []

    def reaches():
        asked.append(len(asked))
        if len(asked) > 60:  # six times as long as it may be silent
            raise Enough
        return len(asked) % 3 == 0

    with pytest.raises(Enough):
        only_daemon._watch("", connection, reaches)


def test_a_daemon_asks_for_the_lock_once_it_reaches_its_engine(monkeypatch):
    answers = iter([False, False, True])
    monkeypatch.setattr(only_daemon, "AGAIN_SECONDS", 0)
    monkeypatch.setattr(only_daemon, "_locked", lambda url: next(answers, "locked"))
    assert only_daemon._wait_for_lock("", lambda: next(answers)) == "locked"


def test_a_daemon_whose_watch_fails_in_another_way_ends(ending, connection):
    def reaches():
        raise ValueError

    with pytest.raises(Ended):
        only_daemon._watch("", connection, reaches)
