"""One-shot, as root: gives a code location its settings, and its data folders.

The gap: a volume hides what the image has at its place, from the second start on without a word.
And Compose has no way to hand a file to containers that it does not create. A project's `.env` is
readable by its owner only, and goes to a volume that the code server and its runs can read. This
module could be deleted if volumes had an image to begin with, and if run containers could mount
Compose's secrets.
"""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from control_plane.code_server.put_in import DATA, SEED, SUMS, sum_of

UID = 10001
# The project's folder on the host, and the volume for its settings. Runs can only read that volume.
HOST, SETTINGS = Path("/project"), Path("/run/dagster-settings")
# `./stack secret` stores a value here. A value of .env that begins so stands for one of them.
SECRETS, SECRET = SETTINGS / "secrets", "secret:"
# In the place of .env while `./stack deploy` tries what may become live, if this variable names it.
CANDIDATE, CANDIDATE_VARIABLE = ".env.candidate", "CANDIDATE_SETTINGS"
# What each file in the data folders was when it came from an image.
TAKEN = "from-the-image.json"


def variables() -> dict[str, str]:
    """The variables of the project's `.env`, with the secrets that it names.

    Raises:
        LookupError: It names a secret that is not stored.
    """
    # Only code servers and runs have it.
    from dotenv import dotenv_values

    found: dict[str, str] = {}
    file = SETTINGS / os.environ.get(CANDIDATE_VARIABLE, ".env")
    for name, value in dotenv_values(file).items():
        if value is None:
            continue
        if value.startswith(SECRET):
            file = SECRETS / Path(value.removeprefix(SECRET)).name
            if not file.is_file():
                raise LookupError(
                    f".env: {name}={value}: store it first: ./stack secret {file.name}"
                )
            value = file.read_text()
        found[name] = value
    return found


def sources() -> list[bytes]:
    """What code may have read when it was imported: `.env` and each secret."""
    files = [SETTINGS / ".env", *sorted(SECRETS.glob("*"))]
    return [file.read_bytes() for file in files if file.is_file()]


def hand_over_settings(name: str = ".env") -> None:
    """Replaces the settings by what .env contains now; without a .env there are none."""
    source, target, new = HOST / ".env", SETTINGS / name, SETTINGS / ".env.new"
    if source.is_symlink() and not source.is_file():
        sys.exit(".env is a link to a file outside of the project: put a copy in its place")
    new.write_bytes(source.read_bytes() if source.is_file() else b"")
    new.chmod(0o400)
    os.chown(new, UID, UID)
    new.replace(target)


def fill_data_folders(before: Mapping[str, str]) -> list[str]:
    """Copies what is new in the image to the volume. Leaves alone what runs have changed.

    Args:
        before: The sum of each file when it was copied, by path.

    Returns:
        Files that differ in the image, and that runs have changed or deleted as well, or put
        something else in the place of.
    """
    now: dict[str, str] = json.loads(SUMS.read_text())
    kept: list[str] = []
    for folder in sorted(path for path in SEED.rglob("*") if path.is_dir()):
        name = folder.relative_to(SEED)
        try:
            (DATA / name).mkdir(parents=True, exist_ok=True)
        except OSError:
            kept.append(str(name))
    for name, digest in now.items():
        was = before.get(name)
        if was == digest:
            continue
        target = DATA / name
        try:
            if _sum_if_same_size(target, was, digest) in (was, digest):
                # A file that is read-only is replaced as well.
                target.unlink(missing_ok=True)
                shutil.copy(SEED / name, target)
            else:
                kept.append(name)
        except OSError:
            kept.append(name)
    return kept


def _sum_if_same_size(file: Path, *sums: str | None) -> str | None:
    """The sum of a file; nothing if there is none; not read if it cannot be one of the sums."""
    if file.is_symlink() or not file.is_file():
        return "not a file" if file.is_symlink() or file.exists() else None
    sizes = {one.partition("-")[0] for one in sums if one}
    return sum_of(file) if str(file.stat().st_size) in sizes else "another"


def main() -> None:
    """Writes a line for each file of the image that the volume has in another version.

    With the argument `candidate`, it hands over the settings only, as CANDIDATE.
    """
    if sys.argv[1:] == ["candidate"]:
        hand_over_settings(CANDIDATE)
        return
    hand_over_settings()
    os.chown(DATA, UID, UID)
    with os.fdopen(os.open(SETTINGS / TAKEN, os.O_RDWR | os.O_CREAT, 0o600), "r+") as taken:
        try:
            before: dict[str, str] = json.loads(taken.read() or "{}")
        except ValueError:  # a start that was cut off
            before = {}
        # Runs write the data folders. A link of theirs must not lead root anywhere.
        os.setgroups([])
        os.setgid(UID)
        os.setuid(UID)
        for name in fill_data_folders(before):
            print(f"kept {name!a} as runs have changed it: the image has another version")
        taken.seek(0)
        taken.truncate()
        taken.write(SUMS.read_text())


if __name__ == "__main__":
    main()
