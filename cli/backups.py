"""Writes backups of a stack, and puts one into an empty stack.

parts/backup/ has what runs in containers for it, and says what is in the file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from cli import builds, commands, containers, outdated, piped, settings
from cli.errors import StackError
from cli.output import say
from cli.stack import Stack, docker

SERVICE = "backup"
# In the file in another way (the database), or made again by the next start.
NOT_KEPT = re.compile(r"postgres-data|(postgres|owner|control|code|viewer)-credentials|guard-.+")
# In the container of Postgres.
RESTORE = (
    "pg_restore", "--username=postgres", "--dbname=dagster", "--exit-on-error",
    "--single-transaction",
)  # fmt: skip
ENCRYPTED = b"age-encryption.org/v1"


class Backups:
    """The backups of one stack."""

    def __init__(
        self, stack: Stack, *, passphrase: str | None = None, key: str | None = None
    ) -> None:
        """Reads its settings.

        Args:
            stack: The stack.
            passphrase: A file with the passphrase. The default is BACKUP_PASSPHRASE.
            key: A file with age's keys: private ones to read, by default BACKUP_KEYS to write.

        Raises:
            StackError: A setting or a file is wrong.
        """
        self.stack = stack
        config = stack.with_all_profiles.config
        self.image: str = config["services"][SERVICE]["image"]
        # Of its files' names, and what their manifests say.
        self.prefix, self.manifest = stack.name, {"stack": stack.name}
        self.database = containers.database_of(stack.name)
        self.volumes = {n: one["name"] for n, one in config["volumes"].items() if is_kept(n)}
        files = {n: config["secrets"][f"backup_{n}"]["file"] for n in ("passphrase", "keys")}
        if passphrase or key:
            files = {"passphrase": passphrase or os.devnull, "keys": key or os.devnull}
        # By their paths in the container.
        self.secrets = {
            f"/run/secrets/backup_{n}": Path(f).absolute()
            for n, f in files.items()
            if f != os.devnull
        }
        if len(self.secrets) > 1:
            raise StackError(
                "a backup has a passphrase or keys, not both: BACKUP_PASSPHRASE, BACKUP_KEYS"
            )
        given = {"passphrase": "--passphrase", "keys": "--key"} if passphrase or key else {}
        for secret, file in self.secrets.items():
            if not file.is_file() or not file.read_text().partition("\n")[0].strip():
                what = secret.removeprefix("/run/secrets/backup_")
                name = given.get(what, f"BACKUP_{what.upper()}")
                raise StackError(
                    f"{name} {file}: there is no such file, or its first line is empty"
                )

    def build(self) -> None:
        """Builds the image, and removes what an interrupted command has left; raises StackError."""
        left = docker(*commands.containers_of(self.stack.name, commands.BACKUP_LABEL)).split()
        if left:
            say("removing what an interrupted backup has left")
            outdated.remove_containers(*left)
        builds.build_only(self.stack.with_all_profiles, ["prepare", SERVICE])

    def images(self) -> list[str]:
        """The images that `build` makes."""
        services = self.stack.with_all_profiles.config["services"]
        return [services[name]["image"] for name in ("prepare", SERVICE)]

    @property
    def there(self) -> dict[str, str]:
        """The kept volumes that exist: the engine's name by ours."""
        engine = set(docker(*commands.volumes(self.stack.name)).split())
        return {name: volume for name, volume in self.volumes.items() if volume in engine}

    def write(self, target: Path) -> None:
        """Writes a backup. The file is complete when it has this name."""
        files = {
            f"/settings/{name}": file
            for name, file in settings.paths(self.stack).items()
            if file.is_file()
        }
        command = containers.backup(
            self.stack.name, self.image, ["write", json.dumps(self.manifest)], volumes=self.there,
            files={**self.secrets, **files}, database=self.database,
        )  # fmt: skip
        with piped.complete(target) as out:
            piped.run(command, None, out)

    def check(self, file: Path) -> dict[str, Any]:
        """Reads a whole backup; returns its manifest, or raises StackError with what is wrong."""
        return json.loads(self._read(file, "check"))

    def refuse_unknown(self, file: Path, found: Mapping[str, Any]) -> None:
        """Raises StackError when a backup has a volume that this checkout has not."""
        unknown = set(found["volumes"]) - set(self.volumes)
        if unknown:
            raise StackError(
                f"{file}: it has {', '.join(sorted(unknown))}, and this checkout has not: take"
                " the revision that made it, or see docker-compose.override.yml.from-backup. No"
                " data was touched"
            )

    def texts(self, file: Path, what: str) -> dict[str, str]:
        """The `settings` of the checkout in a backup, or its `passwords` in base64, by name."""
        return json.loads(self._read(file, what))

    def compare(self, file: Path) -> list[str]:
        """The tables and files that are not as in a backup. The database must be there."""
        return json.loads(self._read(file, "compare", volumes=self.there, database=self.database))

    def fill(self, file: Path, found: Mapping[str, Any]) -> None:
        """Puts the files and the database of a backup into a stack without data.

        Args:
            file: The backup.
            found: What `check` said.

        Raises:
            StackError: Something failed, or the stack's data is not that of the backup then.
        """
        for name in found["volumes"]:
            docker(*commands.create_volume(self.stack.name, name))
        # One by one: the mark of a restore makes `prepare` refuse any other start.
        self.stack.compose(*commands.prepare("prepare", "restore"))
        self.stack.compose(*commands.start("--no-deps", "postgres"))
        filled = {name: volume for name, volume in self.there.items() if name in found["volumes"]}
        self._read(file, "files", volumes=filled, writable=True)
        self.fill_database(file, self.stack.command("exec", "--no-TTY", "postgres", *RESTORE))
        differ = self.compare(file)
        if differ:
            raise StackError(f"{len(differ)} tables or files are not the same: {differ[0]}")

    def fill_database(self, file: Path, restore: Sequence[str]) -> None:
        """Gives the dump in a backup to a command with RESTORE: all is restored, or none."""
        with piped.into(restore, self.stack) as dump:
            self._read(file, "database", out=dump)

    def _read(
        self, file: Path, what: str, *, out: IO[bytes] | None = None,
        volumes: Mapping[str, str] | None = None, writable: bool = False,
        database: Sequence[str] = (),
    ) -> bytes:  # fmt: skip
        # Without a buffer: the container reads from where this process has read to.
        with file.open("rb", buffering=0) as content:
            is_encrypted = content.read(len(ENCRYPTED)) == ENCRYPTED
            content.seek(0)
            if is_encrypted and not self.secrets:
                raise StackError(
                    f"{file} is encrypted: --key FILE names age's private key, --passphrase FILE a"
                    " file with its passphrase"
                )
            command = containers.backup(
                self.stack.name, self.image, [what], volumes=volumes or {},
                files=self.secrets if is_encrypted else {}, writable=writable, database=database,
                variables=[f"ENCRYPTED={is_encrypted:d}"],
            )  # fmt: skip
            try:
                return piped.run(command, content, out)
            except StackError as error:
                raise StackError(f"{file}: {error}") from None


def is_kept(volume: str) -> bool:
    """Whether a backup has the files of a volume."""
    return not NOT_KEPT.fullmatch(volume)


def folder(stack: Stack) -> str:
    """BACKUP_FOLDER: where the service of each night writes."""
    volumes: list[dict[str, str]] = stack.with_all_profiles.config["services"][SERVICE]["volumes"]
    (found,) = (one["source"] for one in volumes if one["target"] == "/backups")
    return found


def left_out(stack: Stack) -> list[str]:
    """Volumes that the service of each night does not have, if it is switched on."""
    if not (service := stack.config["services"].get(SERVICE)):
        return []
    mounted = {one.get("source") for one in service["volumes"]}
    return sorted(Backups(stack).there.keys() - mounted)
