"""What wrong passwords cost, and whose session is whose; the clock is ours."""

import pytest

from control_plane.edge import sign_in
from control_plane.edge.sign_in import (
    GUESSES,
    SECONDS_PER_GUESS,
    SESSION_SECONDS,
    SignIn,
    TooManyGuesses,
)

HERE, THERE = "192.0.2.1", "192.0.2.2"


@pytest.fixture
def clock(monkeypatch):
    now = [1_000_000.0]
    monkeypatch.setattr(sign_in.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sign_in.time, "time", lambda: now[0])
    return now


@pytest.fixture
def users(clock):
    return SignIn({"dagster": "right", "viewer": "other"}, "session")


def guess(users, address, times):
    for n in range(times):
        assert not users.is_correct(address, "dagster", f"guess {n}")


def test_after_ten_wrong_passwords_even_the_right_one_is_refused(users):
    guess(users, HERE, GUESSES)
    with pytest.raises(TooManyGuesses, match=str(SECONDS_PER_GUESS + 1)):
        users.is_correct(HERE, "dagster", "right")


def test_wrong_passwords_from_one_address_do_not_delay_another_address(users):
    guess(users, HERE, GUESSES)
    assert users.is_correct(THERE, "dagster", "right")


def test_a_user_who_has_signed_in_from_an_address_is_exempt_from_its_rate_limit(users):
    assert users.is_correct(HERE, "viewer", "other")
    guess(users, HERE, GUESSES)
    assert users.is_correct(HERE, "viewer", "other")
    with pytest.raises(TooManyGuesses):
        users.is_correct(HERE, "dagster", "right")


def test_waiting_gives_a_guess_back_and_never_more_than_ten(users, clock):
    guess(users, HERE, GUESSES)
    clock[0] += SECONDS_PER_GUESS
    guess(users, HERE, 1)
    with pytest.raises(TooManyGuesses):
        guess(users, HERE, 1)
    clock[0] += 365 * 86400
    guess(users, HERE, GUESSES)
    with pytest.raises(TooManyGuesses):
        guess(users, HERE, 1)


def test_a_password_is_valid_for_its_own_user_only(users):
    assert not users.is_correct(HERE, "viewer", "right")
    assert not users.is_correct(HERE, "nobody", "right")
    assert not users.is_correct(HERE, "", "")


def test_a_session_ends_by_itself(users, clock):
    token = users.open_session("dagster")
    assert users.user_of(token) == "dagster"
    clock[0] += SESSION_SECONDS
    assert users.user_of(token) is None


def test_a_session_outlives_a_restart_and_ends_with_its_user_s_password(users):
    token = users.open_session("dagster")
    restarted = SignIn({"dagster": "right", "viewer": "other"}, "session")
    assert restarted.user_of(token) == "dagster"
    rotated = SignIn({"dagster": "new", "viewer": "other"}, "session")
    assert rotated.user_of(token) is None


def test_a_token_that_was_changed_is_no_session(users):
    token = users.open_session("viewer")
    user, until, nonce, signature = token.split(".")
    forged = (
        f"dagster.{until}.{nonce}.{signature}",
        f"{user}.{int(until) + 1}.{nonce}.{signature}",
        f"{user}.{until}.{nonce}.",
        f"{user}.{until}.{nonce}.{signature[:-1]}",
        f"{user}.{until}.{nonce}.\udcff",
        f"{user}.{signature}", "viewer", ".", "", "\udcff.\udcff",
    )  # fmt: skip
    assert users.user_of(token) == "viewer"
    assert {users.user_of(one) for one in forged} == {None}


def test_a_million_addresses_take_no_more_memory_than_ten_thousand(users, monkeypatch):
    monkeypatch.setattr(sign_in, "MAX_ADDRESSES", 100)
    monkeypatch.setattr(sign_in, "say", lambda *_, **__: None)
    for n in range(1000):
        guess(users, f"198.51.100.{n}", 1)
        users.is_correct(f"198.51.100.{n}", "dagster", "right")
    guesses = users.guesses
    assert max(map(len, (guesses.remaining_since, guesses.correct))) == 100
