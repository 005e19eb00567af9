"""Health probes: each checks that a service does its main work.

The gap: Dagster's own probes (`dagster api grpc-health-check`, `dagster-daemon liveness-check`)
import Dagster, which takes more than a second of CPU time for each probe. These do not. This module
could be deleted if Dagster's probes were as cheap.

    probe.py http URL          the URL answers with a status of 2xx
    probe.py guard             each of the guard's listeners answers, with the engine's version
    probe.py webserver URL     GraphQL returns data from the database
    probe.py grpc HOST:PORT    the gRPC health protocol reports SERVING
    probe.py daemon            every daemon thread has written its heartbeat to the database, and
                               the volumes that runs write to have space left
"""

import json
import socket
import sys
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

TIMEOUT_SECONDS = 5
GUARD_SOCKETS = "/run/guard/launch/docker.sock", "/run/guard/stop/docker.sock"
# Daemon threads write a heartbeat every 30 s. Three missing ones are a fault.
HEARTBEAT_TOLERANCE_SECONDS = 100
# With a full disk, runs lose their step logs without a word, and Postgres stops.
VOLUMES = "/var/lib/dagster/storage", "/var/lib/dagster/compute-logs"
LEAST_FREE_BYTES = 100 * 2**20


def http(url: str) -> str | None:
    """Returns None, or what is wrong."""
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS):  # noqa: S310 # our own URL
        return None


def guard() -> str | None:
    """Returns None, or what is wrong."""
    for path in GUARD_SOCKETS:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(TIMEOUT_SECONDS)
            client.connect(path)
            client.sendall(b"GET /version HTTP/1.1\r\nHost: guard\r\n\r\n")
            head = client.recv(64)
        if not head.startswith(b"HTTP/1.1 200 "):
            return f"{path} answers with {head!r}: see the log of the guard"
    return None


def webserver(url: str) -> str | None:
    """Returns None, or what is wrong."""
    query = json.dumps({"query": "{ runsOrError(limit: 1) { __typename } }"}).encode()
    request = urllib.request.Request(  # noqa: S310 # our own URL
        url, data=query, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
        kind = json.load(answer)["data"]["runsOrError"]["__typename"]
    return None if kind == "Runs" else f"GraphQL returns {kind}: see the log of the web server"


def grpc(address: str) -> str | None:
    """Returns None, or what is wrong."""
    from grpc import insecure_channel

    channel = cast("Any", insecure_channel(address))  # grpcio ships no types
    # An empty HealthCheckRequest is zero bytes. HealthCheckResponse SERVING is field 1 = 1.
    check = channel.unary_unary("/grpc.health.v1.Health/Check")
    answer = check(b"", timeout=TIMEOUT_SECONDS)
    return None if answer == b"\x08\x01" else f"not SERVING: {answer!r}"


def daemon() -> str | None:
    """Returns None, or what is wrong."""
    import os

    import psycopg2
    import yaml

    # A heartbeat that is older than this container is from the container before it.
    ticks = int(Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    age = uptime - ticks / os.sysconf("SC_CLK_TCK")

    instance = yaml.safe_load(Path(os.environ["DAGSTER_HOME"], "dagster.yaml").read_text())
    postgres = instance["storage"]["postgres"]["postgres_db"]
    connection = psycopg2.connect(
        host=postgres["hostname"],
        port=postgres["port"],
        dbname=postgres["db_name"],
        user=os.environ[postgres["username"]["env"]],
        **postgres["params"],
    )
    with connection.cursor() as cursor:
        # All threads of one daemon process write the same daemon_id. A row with another ID is from
        # an earlier process, or from a kind of daemon that is now off.
        cursor.execute(
            """
            SELECT daemon_type, timestamp < timezone('utc', now()) - make_interval(secs => %s)
            FROM daemon_heartbeats
            WHERE daemon_id = (
                SELECT daemon_id FROM daemon_heartbeats ORDER BY timestamp DESC LIMIT 1)
            """,
            (min(age, HEARTBEAT_TOLERANCE_SECONDS),),
        )
        rows: list[tuple[str, bool]] = cursor.fetchall()
    silent = sorted(kind for kind, is_late in rows if is_late)
    if not rows or silent:
        return f"no heartbeat from {', '.join(silent) or 'any daemon'}: see the log of the daemon"
    return full(VOLUMES)


def full(paths: Iterable[str]) -> str | None:
    """Returns None, or which folders have too little space left."""
    import os

    disks = {path: os.statvfs(path) for path in paths}
    free = {path: disk.f_bavail * disk.f_frsize for path, disk in disks.items()}
    few = [f"{free[p] // 2**20} MiB are left for {p}" for p in free if free[p] < LEAST_FREE_BYTES]
    if not few:
        return None
    return (
        f"the disk is full, {' and '.join(few)}: delete what you do not need"
        " (docs/how-to/keep-or-delete-history.md)"
    )


def main() -> None:
    """Exits with status 1 and the reason when the service is unhealthy."""
    name, *arguments = sys.argv[1:]
    try:
        probes = {"http": http, "guard": guard, "webserver": webserver, "grpc": grpc}
        reason = (probes | {"daemon": daemon})[name](*arguments)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    if reason:
        sys.exit(f"{name}: {reason}")


if __name__ == "__main__":
    main()
