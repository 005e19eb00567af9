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

from cli import cluster_secrets, reading, runs
from cli.backups import RESTORE, Backups
from cli.cluster import Cluster
from cli.errors import StackError
from cli.output import say
from cli.stack import Stack
from cli.verbs import backup, down

DATABASE = "statefulset/postgres"
HAS_HISTORY = (
    "the stack on the cluster has a history of its own: ./stack cluster-down --destroy deletes it"
)
PORT = 5432
LISTENS = re.compile(r"127\.0\.0\.1:(\d+) ->")
# Public keys: they write, and do not read.
KEYS = "/run/secrets/backup_keys"
# Of Dagster's containers: what a restored volume is owned by.
UID = 10001


class ClusterBackups(Backups):
    """The backups of a stack on a cluster."""

    def __init__(
        self, cluster: Cluster, *, passphrase: str | None = None, key: str | None = None
    ) -> None:
        """Reads its settings: see Backups."""
        super().__init__(cluster.stack, passphrase=passphrase, key=key)
        self.cluster = cluster
        self.folders: dict[str, str] = {}

    @property
    def there(self) -> dict[str, str]:
        """Folders on this machine, by the names of the volumes that they stand for."""
        return self.folders

    def write(self, target: Path) -> None:
        """Writes a backup: see Backups."""
        with tempfile.TemporaryDirectory() as folder, self.reached(Path(folder)):
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

    def bring_passwords(self) -> None:
        """Makes Secrets of what the backup has of them."""
        cluster_secrets.bring(self.backups.cluster, self.backups.texts(self.file, "passwords"))

    def bring_database(self) -> None:
        """Puts the backup's database into the cluster's, which is empty.

        Raises:
            StackError: It is not empty, and nothing was changed; or a table differs afterwards.
        """
        cluster = self.backups.cluster
        there = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        psql = "psql", "--username=postgres", "--dbname=dagster", "--tuples-only", "--command"
        if int(cluster.execute(DATABASE, *psql, there)):
            raise StackError(HAS_HISTORY)
        say(f"bringing the history in {self.file}")
        restore = cluster.command("exec", "--stdin", DATABASE, "--", *RESTORE)
        self.backups.fill_database(self.file, restore)
        with tempfile.TemporaryDirectory() as folder, self.backups.reached(Path(folder)):
            differ = [one for one in self.backups.compare(self.file) if one.startswith("table ")]
        if differ:
            raise StackError(f"{len(differ)} tables are not as in {self.file}: {differ[0]}")


def to_bring(cluster: Cluster, flags: Namespace) -> History | None:
    """The history that the flags of `cluster-up` name; with `--move`, after the stack here ended.

    Raises:
        StackError: The backup is refused, or the cluster has a history. No data was touched.
    """
    if not (flags.move or flags.restore):
        return None
    if cluster.get("deployment", "daemon"):
        raise StackError(HAS_HISTORY)
    found = ClusterBackups(cluster, passphrase=flags.passphrase, key=flags.key)
    found.build()
    if flags.move:
        file = _last_backup(cluster.stack, Backups(cluster.stack), flags)
    else:
        file = reading.file_of(Namespace(file=flags.restore))
    say(f"reading {file}")
    found.check(file)
    return History(found, file)


def _last_backup(stack: Stack, backups: Backups, flags: Namespace) -> Path:
    """Stops a stack on this machine, after its runs have ended, and returns its last backup.

    Raises:
        StackError: It has no database that runs, or there is no backup.
    """
    if KEYS in backups.secrets and not flags.key:
        raise StackError("BACKUP_KEYS encrypts the backup: --key FILE names age's private key")
    states = stack.services()
    if states.get("postgres", {}).get("State") != "running":
        raise StackError(f"the stack {stack.name} is not up on this machine: make up")
    say("stopping the daemon: no further run starts on this machine")
    stack.compose("stop", "daemon")
    runs.wait_for_all(stack)
    stack.compose("stop", *sorted(set(states) - {"postgres"}))
    file = backup.write(backups, Namespace(to=None, keep=None))
    down.stop(stack)
    return file
