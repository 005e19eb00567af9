"""Backups of a stack on a cluster, in the same file as those of one machine.

The same program writes them, in a container here. It reaches the database through kubectl, and
finds what the cluster has in Secrets where the volumes are on one machine.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from argparse import Namespace
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli import cluster_secrets, marks, reading
from cli.backups import RESTORE, Backups
from cli.cluster import Cluster
from cli.errors import StackError
from cli.output import say

DATABASE = "statefulset/postgres"
HAS_HISTORY = (
    "the stack on the cluster has a history of its own: ./stack cluster-down --destroy deletes it"
)
PORT = 5432
LISTENS = re.compile(r"127\.0\.0\.1:(\d+) ->")
# The ConfigMaps that say so while a history is on its way, and after its last backup.
ARRIVAL, MOVED = "arrival", "moved"
CLAIM = "postgres-data-postgres-0"
# What is in the bucket, if all was moved there.
IN_STORE = "io-storage", "compute-logs"
# For files with passwords.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
# Of Dagster's containers: what a restored volume is owned by.
UID = 10001


class ClusterBackups(Backups):
    """The backups of a stack on a cluster."""

    def __init__(
        self, cluster: Cluster, *, passphrase: str | None = None, key: str | None = None
    ) -> None:
        """Reads its settings: see Backups."""
        super().__init__(cluster.stack, passphrase=passphrase, key=key)
        self.prefix = f"{cluster.name}-cluster"
        self.manifest = {"stack": cluster.name, "cluster": True}
        self.cluster = cluster
        self.folders: dict[str, str] = {}

    @property
    def there(self) -> dict[str, str]:
        """Folders on this machine, by the names of the volumes that they stand for."""
        return self.folders

    def write(self, target: Path) -> None:
        """Writes a backup: see Backups."""
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder, self.reached(Path(folder)):
            self.folders = cluster_secrets.keep(self.cluster, Path(folder))
            super().write(target)

    @contextmanager
    def reached(self, folder: Path) -> Generator[None]:
        """Lets a container of `backup` reach the database."""
        passfile = folder / "pgpass"
        passfile.touch(0o600)
        passfile.write_bytes(self.cluster.secret("owner-credentials")["pgpass"])
        with _forwarded(self.cluster) as port:
            self.database = [
                "--network=host", "--env=PGHOST=127.0.0.1", f"--env=PGPORT={port}",
                f"--env=OWNER={UID}", f"--volume={passfile}:/run/dagster-credentials/pgpass:ro",
            ]  # fmt: skip
            yield


@contextmanager
def _forwarded(cluster: Cluster) -> Generator[int]:
    """A port of this machine that leads to the cluster's database, while the context lasts."""
    with subprocess.Popen(
        cluster.command("port-forward", DATABASE, f":{PORT}"), env=cluster.stack.environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        try:
            assert running.stdout and running.stderr  # noqa: S101 # for the type checker
            found = LISTENS.search(running.stdout.readline())
            if not found:
                raise StackError(f"kubectl port-forward: {running.stderr.read().strip()}")
            yield int(found[1])
        finally:
            running.terminate()


@dataclass(frozen=True)
class History:
    """A backup that was read whole, and goes to a cluster without a history."""

    backups: ClusterBackups
    file: Path

    def begin(self) -> None:
        """Makes Secrets of what the backup has of them; notes that the rest is on its way."""
        cluster = self.backups.cluster
        if not _arrival(cluster):
            _note(cluster, {"file": self.file.name})
        cluster_secrets.bring(cluster, self.backups.texts(self.file, "passwords"))

    def bring_database(self) -> None:
        """Puts the backup's database into the cluster's, if that was not done before.

        Raises:
            StackError: It is not empty, and nothing was changed; or a table differs afterwards.
        """
        cluster = self.backups.cluster
        if "restored" in _arrival(cluster):
            return
        there = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        psql = "psql", "--username=postgres", "--dbname=dagster", "--tuples-only", "--command"
        if not int(cluster.execute(DATABASE, *psql, there)):
            say(f"bringing the history in {self.file}")
            restore = cluster.command("exec", "--stdin", DATABASE, "--", *RESTORE)
            self.backups.fill_database(self.file, restore)
        with tempfile.TemporaryDirectory(dir=MEMORY) as folder, self.backups.reached(Path(folder)):
            differ = [one for one in self.backups.compare(self.file) if one.startswith("table ")]
        if differ:
            raise StackError(f"{HAS_HISTORY} ({len(differ)} tables are not as in {self.file})")
        _note(cluster, {"file": self.file.name, "restored": "yes"})


def to_bring(cluster: Cluster, flags: Namespace) -> History | None:
    """The history that the flags of `cluster-up` name, if it has not arrived before.

    Raises:
        StackError: The backup is refused, or the cluster has a history, or half of one. No data
            was touched.
    """
    arrival, moved = _arrival(cluster), _noted(cluster, MOVED)
    if moved and not flags.anyway:
        raise StackError(
            f"the stack may have moved on, with its last backup {moved['file']}, and two daemons"
            " would launch each run twice: --anyway, if it works nowhere else"
        )
    here = cluster.stack.services().get("daemon", {}).get("State") == "running"
    begins_there = flags.restore or not (flags.fresh or marks.is_up_on_cluster(cluster.stack))
    if here and begins_there and not flags.anyway:
        raise StackError(
            f"{cluster.name} is up on this machine, and two daemons would launch each run twice:"
            " ./stack backup --last makes the last backup"
        )
    if not flags.restore:
        if arrival and "restored" not in arrival:
            raise StackError(
                f"a history is on its way: ./stack cluster-up --restore {arrival['file']}"
            )
        return None
    file = reading.file_of(Namespace(file=flags.restore))
    has_data = cluster.get("deployment", "daemon") or cluster.get("persistentvolumeclaim", CLAIM)
    if has_data and arrival.get("file") != file.name:
        raise StackError(HAS_HISTORY)
    found = ClusterBackups(cluster, passphrase=flags.passphrase, key=flags.key)
    found.build()
    say(f"reading {file}")
    kept: dict[str, int] = found.check(file)["files_of"]
    left = sum(kept.get(volume, 0) for volume in IN_STORE)
    if left and not flags.anyway:
        raise StackError(
            f"{left} outputs and step logs are in the backup and not in the bucket: ./stack restore"
            f" {file} --replace, make move-to-store, and ./stack backup --last again; or --anyway"
        )
    return History(found, file)


def settle(cluster: Cluster) -> None:
    """The history has arrived, and further runs are added to it."""
    cluster.kubectl("delete", "configmap", ARRIVAL, MOVED, "--ignore-not-found")


def note_moved(cluster: Cluster, file: Path) -> None:
    """Notes the last backup: from now on `to_bring` refuses a start."""
    _note(cluster, {"file": file.name}, MOVED)


def _arrival(cluster: Cluster) -> dict[str, str]:
    return _noted(cluster, ARRIVAL)


def _noted(cluster: Cluster, name: str) -> dict[str, str]:
    found: dict[str, Any] = cluster.get("configmap", name) or {}
    return found.get("data") or {}


def _note(cluster: Cluster, data: dict[str, str], name: str = ARRIVAL) -> None:
    metadata = {"name": name, "namespace": cluster.name}
    made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
    cluster.apply([made])
