"""Writes and reads a backup: one file with all that a stack would lose with its machine.

The file is a gzip stream of a tar archive (and around that an age file, if there is a key: run.sh).
Its members, in this order:

    manifest.json       what it is, and of which versions
    tables.json         the number and a hash of the rows of each table
    database.dump       of pg_dump, of the same snapshot as tables.json
    settings/NAME       files of the checkout, such as .env
    volumes/NAME/PATH   the files of each volume
    checksums.json      the SHA-256 of each file before it

The snapshot of the database is taken first. A value or log that the database knows is in its volume
by then, so the file is consistent while runs go on.

This program runs in a container of its own (cli/backups.py). The gap: pg_dump knows the database
alone, and Dagster has no backup.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, Any

import psycopg2

FORMAT = 1
MANIFEST, TABLES, DUMP, CHECKSUMS = (
    "manifest.json", "tables.json", "database.dump", "checksums.json",
)  # fmt: skip
OURS = (MANIFEST, TABLES, DUMP, CHECKSUMS)
# In a volume, and in those of settings: what a cluster keeps in Secrets.
PASSWORDS = re.compile(r"volumes/(sign-in-credentials/\w+|\w+-settings/secrets/[^/]+)")
# The files of a cluster's Secrets have no owner. In a volume they have this one.
OWNER = os.environ.get("OWNER")
# What a file of pg_dump's own format begins with.
OF_PG_DUMP = b"PGDMP"
VOLUMES, SETTINGS = Path("/volumes"), Path(os.environ.get("SETTINGS", "/settings"))
KEYS = Path("/run/secrets/backup_passphrase"), Path("/run/secrets/backup_keys")
# An anonymous volume.
SCRATCH = Path("/scratch")
# The containers of another stack: it has none of them, and begins with an empty table.
NOT_KEPT = "warm_containers"
# The order of rows is not part of the hash.
HASH = """SELECT count(*), coalesce(sum(hashtextextended(row::text, 0)), 0)::text
FROM {0} AS row"""
NAMES = """SELECT table_name FROM information_schema.tables
WHERE table_schema = 'public' AND table_type = 'BASE TABLE' ORDER BY 1"""
BLOCK = 1 << 20
# What Python says of an archive that is not whole, at its members or in the middle of one.
DAMAGED = tarfile.TarError, EOFError, ValueError, zlib.error


class Refused(Exception):
    """The file cannot be used: the reason, for the operator."""


# --- the database


@contextlib.contextmanager
def snapshot() -> Generator[tuple[str, dict[str, list[Any]]]]:
    """The name of a snapshot of the database, and its tables: the number and the hash of rows."""
    with contextlib.closing(_connect()) as connection, connection.cursor() as cursor:
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        cursor.execute("SELECT pg_export_snapshot()")
        (name,) = cursor.fetchone() or ("",)
        yield name, _tables(cursor)


def _tables(cursor: Any) -> dict[str, list[Any]]:  # noqa: ANN401 # psycopg2 has no types
    cursor.execute(NAMES)
    found: dict[str, list[Any]] = {}
    for (table,) in cursor.fetchall():
        if table != NOT_KEPT:
            cursor.execute(HASH.format(f'"{table}"'))
            found[table] = list(cursor.fetchone())
    return found


def _connect() -> Any:  # noqa: ANN401 # psycopg2 has no types
    return psycopg2.connect("")  # PGHOST and so on


# --- writing


class Writer:
    """Adds members to an archive, and notes their checksums."""

    def __init__(self, file: IO[bytes]) -> None:
        """Begins an archive."""
        self.archive = tarfile.open(fileobj=file, mode="w|gz", compresslevel=1)  # noqa: SIM115 # close()
        self.checksums: dict[str, str] = {}

    def add_json(self, name: str, value: object) -> None:
        """Adds a value as a file."""
        data = json.dumps(value, indent=1).encode()
        member = tarfile.TarInfo(name)
        member.size, member.mtime = len(data), int(time.time())
        self._add(member, io.BytesIO(data))

    def add_tree(self, name: str, root: Path) -> None:
        """Adds a file, or a folder with all that is in it. What is gone by then is left out."""
        with contextlib.suppress(FileNotFoundError):
            member = self.archive.gettarinfo(root, name)
            if member is None:  # a socket
                return
            if OWNER:
                member.uid = member.gid = int(OWNER)
            if member.isreg():
                with root.open("rb") as content:
                    # The size of the file that is open now: a value is replaced by another file.
                    member.size = os.fstat(content.fileno()).st_size
                    self._add(member, content)
                return
            self.archive.addfile(member)
            for entry in sorted(root.iterdir()) if member.isdir() else []:
                self.add_tree(f"{name}/{entry.name}", entry)

    def close(self) -> None:
        """Adds the checksums, and ends the archive."""
        self.add_json(CHECKSUMS, self.checksums)
        self.archive.close()

    def _add(self, member: tarfile.TarInfo, content: IO[bytes]) -> None:
        hashed = _Hashed(content, member.size)
        self.archive.addfile(member, hashed)
        self.archive.members.clear()  # only to read
        self.checksums[member.name] = hashed.digest.hexdigest()


class _Hashed(io.RawIOBase):
    """Reads so many bytes of a file. One that has become shorter meanwhile ends with zeros."""

    def __init__(self, content: IO[bytes], size: int) -> None:
        self.content, self.left, self.digest = content, size, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        wanted = self.left if size < 0 else min(size, self.left)
        data = self.content.read(wanted)
        data += bytes(wanted - len(data))
        self.left -= len(data)
        self.digest.update(data)
        return data


def is_encrypted() -> bool:
    """Whether run.sh encrypts what is written."""
    return any(file.exists() and file.read_bytes() for file in KEYS)


def made_with() -> dict[str, list[int]]:
    """The versions of the format, of Postgres and of Dagster. A newer one cannot be restored."""
    lock = Path(__file__).with_name("control-plane.txt").read_text()
    found = re.search(r"^dagster==([\d.]+)", lock, re.MULTILINE)
    dagster = [int(part) for part in found[1].split(".")] if found else [0]
    return {"format": [FORMAT], "Postgres": [int(os.environ["PG_MAJOR"])], "Dagster": dagster}


def write(manifest: dict[str, Any]) -> None:
    """Writes a backup to stdout."""
    dump = SCRATCH / DUMP
    writer = Writer(sys.stdout.buffer)
    writer.add_json(MANIFEST, {**made_with(), "made": time.time(), **manifest})
    with snapshot() as (name, tables):
        command = ["pg_dump", "--format=custom", "--no-privileges", f"--snapshot={name}"]
        # `migrate` may hold a lock. It would wait for this snapshot, which waits for pg_dump.
        command += ["--lock-wait-timeout=30s"]
        command += [f"--exclude-table-data={NOT_KEPT}", f"--file={dump}"]
        if subprocess.run(command, check=False).returncode:
            raise Refused("pg_dump failed: its reason is above")
    writer.add_json(TABLES, tables)
    writer.add_tree(DUMP, dump)
    dump.unlink()
    for root, folder in (("settings", SETTINGS), ("volumes", VOLUMES)):
        for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
            part = entry.name
            if (entry / ".env").exists() and part.endswith("-settings"):
                # The next start writes the rest of them again.
                part = f"{part}/secrets"
                if not is_encrypted():
                    continue
            writer.add_tree(f"{root}/{part}", folder / part)
    writer.close()


# --- reading


def members() -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None, tarfile.TarFile]]:
    """Each member of a backup on stdin, its content if it is a file, and the archive.

    Raises:
        Refused: The file is damaged, or not a backup.
    """
    count = 0
    try:
        # Unlike tarfile's own, it checks the end of the stream, and refuses what comes after.
        stream = gzip.GzipFile(fileobj=sys.stdin.buffer)
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                if not count and member.name != MANIFEST:
                    raise Refused("it is not a backup of a stack")
                count += 1
                yield member, archive.extractfile(member) if member.isreg() else None, archive
        while block := stream.read(BLOCK):
            if block.strip(b"\0"):
                raise Refused("it is damaged: something comes after its end")
    except (*DAMAGED, OSError) as error:
        kind = "is damaged or cut off" if count else "is not a backup of a stack, or is damaged"
        raise Refused(f"it {kind} ({error})") from None
    if not count:
        raise Refused("it is empty")


def check() -> dict[str, Any]:
    """Reads a whole backup from stdin.

    Returns:
        Its manifest, with `tables`, `volumes`, `files_of` (how many each has) and `settings`.

    Raises:
        Refused: It is damaged, cut off, of another kind, or of a newer format.
    """
    found: dict[str, str] = {}
    seen: dict[str, bool] = {}
    parts: dict[str, Any] = {}
    volumes: dict[str, int] = {}
    settings: list[str] = []
    for member, content, _ in members():
        refuse_foreign(member, seen)
        root, _, rest = member.name.partition("/")
        if root == "volumes":
            volume = rest.partition("/")[0]
            volumes[volume] = volumes.get(volume, 0) + member.isreg()
        if content is None:
            continue
        if member.name in (MANIFEST, TABLES, CHECKSUMS):
            data = content.read()
            parts[member.name] = json.loads(data)
            digest = hashlib.sha256(data)
        else:
            first = content.read(len(OF_PG_DUMP))
            if member.name == DUMP and first != OF_PG_DUMP:
                raise Refused("it has no database")
            digest = hashlib.sha256(first)
            while block := content.read(BLOCK):
                digest.update(block)
        if root == "settings":
            settings.append(rest)
        if member.name == MANIFEST:
            for what, here in made_with().items():
                made = versions_of(parts[MANIFEST], what)
                if made > here:
                    raise Refused(
                        f"it was made with {what} {dotted(made)}, and this stack has"
                        f" {dotted(here)}: restore it with the version that made it"
                    )
        if member.name != CHECKSUMS:
            found[member.name] = digest.hexdigest()
    if CHECKSUMS not in parts:
        raise Refused("it is cut off: its end is missing")
    if not parts.get(TABLES) or DUMP not in found:
        raise Refused("it has no database")
    wrong = [n for n, digest in parts[CHECKSUMS].items() if found.pop(n, None) != digest]
    if wrong or found:
        raise Refused(f"it is damaged: {(wrong or list(found))[0]} is not what was written")
    return {
        **parts[MANIFEST],
        "tables": parts[TABLES],
        "volumes": sorted(volumes),
        "files_of": volumes,
        "settings": settings,
        "files": len(parts[CHECKSUMS]),
    }


def versions_of(manifest: object, what: str) -> list[int]:
    """A version in a manifest; raises Refused when it is none."""
    version: Any = manifest.get(what) if isinstance(manifest, dict) else None
    if not isinstance(version, list) or not all(isinstance(part, int) for part in version):
        raise Refused(f"it is damaged: its manifest has no version of {what}")
    return version


def refuse_foreign(member: tarfile.TarInfo, seen: dict[str, bool]) -> None:
    """Refuses a member that `write` does not make, so that each is a new file of its own volume.

    Args:
        member: The member.
        seen: The names of the members before it, and whether each is a symbolic link. The new one
            is added.

    Raises:
        Refused: It is such a member.
    """
    path = Path(member.name)
    # A hard link names a file before it, of the same volume.
    is_link_inside = member.islnk() and seen.get(member.linkname) is False
    is_link_inside = is_link_inside and Path(member.linkname).parts[:2] == path.parts[:2]
    is_good = (
        str(path) == member.name  # written in one way only
        and ".." not in path.parts
        and member.name not in seen
        and not any(seen.get(str(parent)) for parent in path.parents)
        and (path.parts[0] in ("settings", "volumes") or member.name in OURS)
        and (
            member.isreg() or member.isdir() or member.issym() or member.isfifo() or is_link_inside
        )
    )
    if not is_good:
        raise Refused(f"it is not a backup of a stack: {member.name!r} is in it")
    seen[member.name] = member.issym()


def dotted(version: list[int]) -> str:
    """A version as people write it."""
    return ".".join(map(str, version))


def read_database() -> None:
    """Writes the dump of the database in a backup on stdin to stdout."""
    for member, content, _ in members():
        if member.name == DUMP and content:
            shutil.copyfileobj(content, sys.stdout.buffer, BLOCK)


def read_files() -> None:
    """Puts the files in a backup on stdin into the volumes, in the place of all that is there."""
    for volume in VOLUMES.iterdir():
        for entry in volume.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    for member, _, archive in members():
        root, _, rest = member.name.partition("/")
        if root == "volumes" and (VOLUMES / rest.partition("/")[0]).is_dir():
            archive.extract(member, VOLUMES.parent, numeric_owner=True, filter="tar")


def read_settings() -> None:
    """Writes the settings in a backup on stdin to stdout: JSON, the text of each file by name."""
    found: dict[str, str] = {}
    for member, content, _ in members():
        if member.name.startswith("settings/") and content:
            found[member.name.removeprefix("settings/")] = content.read().decode()
    print(json.dumps(found))


def read_passwords() -> None:
    """Writes what PASSWORDS finds in a backup on stdin to stdout: JSON, base64 by path."""
    found: dict[str, str] = {}
    for member, content, _ in members():
        if PASSWORDS.fullmatch(member.name) and content:
            path = member.name.removeprefix("volumes/")
            found[path] = base64.b64encode(content.read()).decode()
    print(json.dumps(found))


def compare() -> list[str]:
    """Compares a backup on stdin with the database and the volumes.

    Returns:
        Each table and each file that differs.
    """
    differ: list[str] = []
    for member, content, _ in members():
        if member.name == TABLES and content:
            with contextlib.closing(_connect()) as connection, connection.cursor() as cursor:
                tables, there = json.load(content), _tables(cursor)
            names = sorted({*tables, *there})
            differ += [f"table {n}" for n in names if tables.get(n) != there.get(n)]
        if member.name == CHECKSUMS and content:
            for name, digest in json.load(content).items():
                if name.startswith("volumes/") and _digest(VOLUMES.parent / name) != digest:
                    differ.append(name.removeprefix("volumes/"))
    return differ


def _digest(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> None:
    """Does what the first argument names. Exits with status 1 and a reason."""
    what, *rest = sys.argv[1:]
    try:
        if what == "write":
            write(json.loads(rest[0]))
        elif what == "check":
            print(json.dumps(check()))
        elif what == "compare":
            print(json.dumps(compare()))
        else:
            {
                "database": read_database, "files": read_files, "settings": read_settings,
                "passwords": read_passwords,
            }[what]()  # fmt: skip
    except Refused as error:
        sys.exit(str(error))
    except DAMAGED as error:
        sys.exit(f"it is damaged or cut off ({error})")
    except (OSError, psycopg2.Error) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
