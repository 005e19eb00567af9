#!/usr/bin/env python3
"""Inside an image build: fetches the jars of a lock file from a Maven repository. Standard library.

    fetch_jars.py LOCK FOLDER      environment: MAVEN_REPOSITORY; secret: ca_bundle (may be empty)

Each line of the lock is GROUP:ARTIFACT:VERSION SHA-256. A jar with another checksum ends the build.
If the repository cannot be reached or does not have the jar, the build continues without the jar.
Code that needs the jar then fails with a message that names it.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import ssl
import sys
import urllib.request
from pathlib import Path

CA_BUNDLE = Path("/run/secrets/ca_bundle")
SECONDS = 60


class WrongChecksum(Exception):
    """A jar differs from the one in the lock."""


def wanted(lock: str) -> list[tuple[str, str]]:
    """The coordinates and the checksum of each jar in the text of a lock."""
    lines = [line.split() for line in lock.splitlines() if line and not line.startswith("#")]
    return [(coordinates, checksum) for coordinates, checksum in lines]


def path_of(coordinates: str) -> str:
    """The path of the jar with these coordinates in a Maven repository."""
    group, artifact, version = coordinates.split(":")
    return f"{group.replace('.', '/')}/{artifact}/{version}/{artifact}-{version}.jar"


def trusted() -> ssl.SSLContext:
    """Trusts the authorities that the build was given, or else those of the image."""
    given = CA_BUNDLE.is_file() and CA_BUNDLE.stat().st_size > 0
    return ssl.create_default_context(cafile=str(CA_BUNDLE) if given else None)


def fetch(repository: str, coordinates: str, checksum: str, folder: Path) -> None:
    """Downloads a jar into the folder.

    Raises:
        OSError, HTTPException: The repository cannot be reached or does not have the jar.
        WrongChecksum: The jar differs from the lock.
    """
    path = path_of(coordinates)
    url = f"{repository.rstrip('/')}/{path}"
    if not url.startswith(("https://", "http://")):
        raise OSError(f"{repository} is not an address that begins with https:// or http://")
    with urllib.request.urlopen(url, timeout=SECONDS, context=trusted()) as answer:  # noqa: S310
        jar = answer.read()
    found = hashlib.sha256(jar).hexdigest()
    if found != checksum:
        raise WrongChecksum(
            f"{url} has the SHA-256 {found}; locations/warehouse/jars.lock has {checksum}"
        )
    (folder / Path(path).name).write_bytes(jar)


def main() -> None:
    """Exits with status 1 and one line when a checksum is wrong."""
    lock, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    repository = os.environ.get("MAVEN_REPOSITORY", "")
    for coordinates, checksum in wanted(lock.read_text()):
        if not repository:
            print(f"fetch_jars: no Maven repository is set; going on without {coordinates}")
            continue
        try:
            fetch(repository, coordinates, checksum, folder)
            print(f"fetch_jars: fetched {coordinates}")
        except WrongChecksum as error:
            sys.exit(f"fetch_jars: {error}")
        except (OSError, http.client.HTTPException) as error:
            print(f"fetch_jars: going on without {coordinates}: {repository}: {error}")


if __name__ == "__main__":
    main()
