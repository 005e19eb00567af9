"""Of two daemons of one stack, one works and the other waits.

The gap: Dagster's daemons do not exclude each other. Two launch each tick twice, and take the same
runs from the queue. Two exist when a node of a cluster is lost to its API server only, and after
`docker compose up --scale daemon=2`. A daemon holds a lock in Postgres for as long as it lives
(postgres/only_daemon.sql). When the connection that holds it is lost, another daemon may have it by
the time Postgres answers again: this process then ends, at once. A daemon that cannot start runs,
because its node has lost its way to the API server, ends as well, and another one can. This module
could be deleted if `dagster-daemon run` refused to be the second one.
"""

import logging
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import psycopg2
from dagster import DagsterInstance
from dagster._utils.interrupts import raise_interrupts_as
from psycopg2.errors import LockNotAvailable

from control_plane.connections import url_for_libpq
from control_plane.launcher.watched import WatchedLauncher

# On a table that only dagster_control can lock: an advisory lock can be taken by each role, user
# code included. Of this mode Postgres keeps neither a snapshot nor a transaction ID, so VACUUM
# works on, and a backup reads the table.
LOCK = "LOCK TABLE only_daemon IN EXCLUSIVE MODE NOWAIT"
# A peer that does not answer for half a minute is gone. Postgres's own default is two hours.
IDLE_SECONDS, INTERVAL_SECONDS, PROBES = 15, 5, 3
AGAIN_SECONDS, TELL_SECONDS = 1, 60
# Kubernetes starts the other daemon after 60 s: 40 without news of the node, and 20 of patience.
LOOK_SECONDS, UNREACHED_SECONDS = 5, 30

UNREACHED = "the API server of the cluster does not answer this node"

logger = logging.getLogger("dagster.daemon.OnlyDaemon")


def be_the_only_daemon(instance: DagsterInstance) -> None:
    """Returns when no other daemon works, and ends this process when another one may."""
    url, launcher = url_for_libpq(instance), instance.run_launcher
    reaches = launcher.reaches_its_engine if isinstance(launcher, WatchedLauncher) else _always
    with raise_interrupts_as(KeyboardInterrupt):
        holder = _wait_for_lock(url, reaches)
    watched = url, holder, reaches
    threading.Thread(target=_watch, args=watched, name="only daemon", daemon=True).start()


def _always() -> bool:
    return True


def _wait_for_lock(url: str, reaches: Callable[[], bool]) -> Any:  # noqa: ANN401 # psycopg2's stubs have no public name for it
    told = 0.0
    while True:
        try:
            if reaches():
                return _locked(url)
            reason = f"waiting: {UNREACHED}"
        except LockNotAvailable:
            reason = "another daemon of this stack works. This one begins when that one has ended"
        except psycopg2.OperationalError as error:
            reason = f"waiting for Postgres: {error}"
        if time.monotonic() > told + TELL_SECONDS or not told:
            told = time.monotonic()
            logger.warning(reason)
        time.sleep(AGAIN_SECONDS)


def _locked(url: str) -> Any:  # noqa: ANN401 # as above
    """A connection that holds the lock, in a transaction that stays open.

    Raises:
        LockNotAvailable: Another one holds it.
        psycopg2.OperationalError: Postgres does not answer.
    """
    connection = psycopg2.connect(
        url,
        keepalives_idle=IDLE_SECONDS,
        keepalives_interval=INTERVAL_SECONDS,
        keepalives_count=PROBES,
    )
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                f"SET LOCAL tcp_keepalives_idle = {IDLE_SECONDS};"
                f"SET LOCAL tcp_keepalives_interval = {INTERVAL_SECONDS};"
                f"SET LOCAL tcp_keepalives_count = {PROBES};"
                "SET LOCAL idle_in_transaction_session_timeout = 0;"
                f"{LOCK}"
            )
    except BaseException:
        connection.close()
        raise
    return connection


def _watch(url: str, holder: Any, reaches: Callable[[], bool]) -> None:  # noqa: ANN401 # as above
    """Ends the process when it cannot work, or when another daemon may."""
    try:
        _hold(url, holder, reaches)
    except Exception as error:  # without this thread, nobody would notice another daemon
        _end(f"this one ends: {error}")


def _hold(url: str, holder: Any, reaches: Callable[[], bool]) -> NoReturn:  # noqa: ANN401 # as above
    reached = time.monotonic()
    while True:
        try:
            # Nothing comes on this connection but its end.
            if select.select([holder], [], [], LOOK_SECONDS)[0]:
                holder.poll()
        except psycopg2.Error:
            holder.close()
            holder = _locked_again(url)
        if reaches():
            reached = time.monotonic()
        elif time.monotonic() > reached + UNREACHED_SECONDS:
            _end(f"this one ends: {UNREACHED}")


def _locked_again(url: str) -> Any:  # noqa: ANN401 # as above
    while True:
        try:
            return _locked(url)
        except LockNotAvailable:
            _end("this one ends: another daemon of this stack works")
        except psycopg2.OperationalError:
            time.sleep(AGAIN_SECONDS)


def _end(why: str) -> NoReturn:
    logger.critical(why)
    # Of a thread that is not the main one, this alone ends the others at once.
    os._exit(1)
