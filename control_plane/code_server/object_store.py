"""The object store that has outputs and step logs in place of volumes, with STORE=s3.

The gap: Dagster's S3 client takes account, region and endpoint from variables of its process. In a
run, these are of the user's code, which may use another account. Here they come from one file, and
from nothing else. This module could be deleted if dagster-aws read them from a file.

    python -m control_plane.code_server.object_store check
        Writes, reads, lists and deletes an object; with a fault, status 1 and one line.
    python -m control_plane.code_server.object_store put-in DAGSTER_YAML
        In an image build: the instance writes step logs to the store.
"""

import configparser
import functools
import importlib
import itertools
import os
import re
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# `prepare` writes both: STORE_CONFIG, and CA_BUNDLE, which may be empty.
FILE = Path("/run/dagster-credentials/store.ini")
AUTHORITIES = FILE.with_name("store_authorities.pem")
SECTION = "default"
NEEDED = ("bucket", "aws_access_key_id", "aws_secret_access_key")
KNOWN = (*NEEDED, "region", "endpoint_url")
# In quotes, a value would be sent with them.
KEY = r"(?![\"'])[!-~]+"
FORMS = {"aws_access_key_id": KEY, "aws_secret_access_key": KEY, "region": "[a-z0-9-]*"}
REPEATED = configparser.DuplicateOptionError, configparser.DuplicateSectionError
# In the bucket, with the same names below them as in the volumes.
OUTPUTS, LOGS = "outputs", "compute-logs"
VOLUMES = {OUTPUTS: Path("/var/lib/dagster/storage"), LOGS: Path("/var/lib/dagster/compute-logs")}
# What dagster.yaml of the image has for compute_logs.
LOG_MANAGER = {"module": "control_plane.code_server.kept_in_store", "class": "ObjectStoreLogs"}
CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 5, 30, 4
# For what somebody waits for who would rather be told.
SOON_SECONDS = 5
CHUNK_BYTES = 256 * 1024


class BadStore(Exception):
    """The settings of the store cannot be used, or the store does not do what it should."""


@dataclass(frozen=True)
class Settings:
    """What STORE_CONFIG says.

    Attributes:
        bucket: The name of the bucket.
        folder: What all keys begin with, without a slash at the end. It may be empty.
        key_id: The ID of the access key.
        secret: The access key.
        region: The region of the bucket.
        endpoint: The URL of the S3 API, or None for that of AWS.
    """

    bucket: str
    folder: str
    key_id: str
    secret: str = field(repr=False)
    region: str
    endpoint: str | None


def read_settings(text: str) -> Settings:
    """Reads a file in the format of AWS's configuration files.

    Raises:
        BadStore: It is not one, lacks something, or has something that nothing would read.
    """
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(text.removeprefix("\ufeff"))
    except configparser.Error as error:
        # Not its text: that is the line, which may be the key.
        found = getattr(error, "lineno", None) or getattr(error, "errors", [("?",)])[0][0]
        what = (
            "repeats a name" if isinstance(error, REPEATED) else "is no [section] or name = value"
        )
        raise BadStore(f"STORE_CONFIG cannot be read: line {found} {what}") from None
    if not parser.has_section(SECTION):
        raise BadStore(f"STORE_CONFIG has no section [{SECTION}]")
    found = {name: value.strip() for name, value in parser.items(SECTION)}
    unknown = sorted(found.keys() - set(KNOWN))
    if unknown:
        raise BadStore(f"STORE_CONFIG has {unknown[0]}, which nothing reads: {', '.join(KNOWN)}")
    missing = [name for name in NEEDED if not found.get(name)]
    if missing:
        raise BadStore(f"STORE_CONFIG lacks {', '.join(missing)}")
    endpoint = found.get("endpoint_url") or None
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise BadStore(
            f"STORE_CONFIG has endpoint_url={endpoint}: it must begin with https:// or http://"
        )
    for name, form in FORMS.items():
        if name in found and not re.fullmatch(form, found[name]):
            raise BadStore(f"STORE_CONFIG has a value for {name} that cannot be one")
    bucket, _, folder = found["bucket"].removeprefix("s3://").strip("/").partition("/")
    names = folder.strip("/").split("/") if folder else []
    if not re.fullmatch(r"[A-Za-z0-9._-]+", bucket) or {"", ".", ".."} & {*names}:
        raise BadStore(f"STORE_CONFIG has bucket={found['bucket']}: use NAME or NAME/FOLDER")
    return Settings(
        bucket,
        folder.strip("/"),
        found["aws_access_key_id"],
        found["aws_secret_access_key"],
        found.get("region") or "us-east-1",
        endpoint,
    )


class ObjectStore:
    """The bucket of this stack."""

    def __init__(self, settings: Settings, *, soon: bool = False) -> None:
        """Connects to nothing yet.

        Args:
            settings: Where it is.
            soon: Whether an error is better than a late answer.
        """
        self.settings, self.soon = settings, soon

    @functools.cached_property
    def client(self) -> Any:  # noqa: ANN401 # boto3 has no types
        """boto3's client for S3."""
        # Here, because few processes need it; by name, because it has no types.
        boto3: Any = importlib.import_module("boto3.session")
        core: Any = importlib.import_module("botocore.session")
        config: Any = importlib.import_module("botocore.config")
        settings = self.settings
        # No file and no profile that variables of the process name.
        nothing = (None, None, None, None)
        nowhere = (None, None, os.devnull, None)
        own = core.Session(
            session_vars={
                "profile": nothing,
                "ca_bundle": nothing,
                "config_file": nowhere,
                "credentials_file": nowhere,
            }
        )
        has_authorities = AUTHORITIES.is_file() and AUTHORITIES.stat().st_size > 0
        return boto3.Session(botocore_session=own).client(
            "s3",
            aws_access_key_id=settings.key_id,
            aws_secret_access_key=settings.secret,
            region_name=settings.region,
            endpoint_url=settings.endpoint,
            verify=str(AUTHORITIES) if has_authorities else True,
            config=config.Config(
                connect_timeout=SOON_SECONDS if self.soon else CONNECT_SECONDS,
                read_timeout=SOON_SECONDS if self.soon else READ_SECONDS,
                retries={"mode": "standard", "total_max_attempts": 1 if self.soon else ATTEMPTS},
                ignore_configured_endpoint_urls=True,
                # As servers that are not AWS's need it.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": "path" if settings.endpoint else "auto"},
            ),
        )

    def key(self, *parts: str) -> str:
        """The key of an object: the folder of the stack, then these parts."""
        return "/".join(part for part in (self.settings.folder, *parts) if part)

    def modified(self, key: str) -> float | None:
        """When an object was written, in seconds since 1970; None if there is no such object."""
        found = self._unless_missing("head_object", Key=key)
        return found and found["LastModified"].timestamp()

    def read(self, key: str, offset: int, most: int) -> bytes | None:
        """At most so many bytes of an object from an offset on; None if there is no such object."""
        if most <= 0:
            return b""
        try:
            found = self._unless_missing(
                "get_object", Key=key, Range=f"bytes={offset}-{offset + most - 1}"
            )
        except self.client.exceptions.ClientError as error:
            if _status(error) == 416:  # the object ends before
                return b""
            raise
        return found and found["Body"].read()

    def chunks(self, key: str, most: int) -> Iterator[bytes] | None:
        """At most so many bytes of an object, in chunks; None if there is no such object."""
        found = self._unless_missing("get_object", Key=key)
        chunks = found and found["Body"].iter_chunks(CHUNK_BYTES)
        return chunks and itertools.islice(chunks, most // CHUNK_BYTES)

    def delete(self, key: str) -> None:
        """Deletes an object, if it is there."""
        self.client.delete_object(Bucket=self.settings.bucket, Key=key)

    def below(self, *parts: str) -> Iterator[str]:
        """The keys of the objects below a folder."""
        pages = self.client.get_paginator("list_objects_v2")
        prefix = f"{self.key(*parts)}/"
        for page in pages.paginate(Bucket=self.settings.bucket, Prefix=prefix):
            for found in page.get("Contents", []):
                yield found["Key"]

    def delete_below(self, *parts: str) -> None:
        """Deletes all objects below a folder. One by one: not every server takes lists."""
        for key in list(self.below(*parts)):
            self.delete(key)

    def check(self) -> None:
        """Does what runs, web server and daemon do.

        Raises:
            BadStore: Something fails. The message says what, and what the server says.
        """
        settings, name = self.settings, f"check-{uuid.uuid4()}"
        key, doing = self.key("checks", name), "be written to"
        try:
            self.client.put_object(Bucket=settings.bucket, Key=key, Body=name.encode())
            doing = "be read"
            if self.read(key, 0, len(name) + 1) != name.encode():
                raise BadStore("what is read is not what was written")
            doing = "be listed"
            if key not in self.below("checks"):
                raise BadStore("what was written is not listed")
            doing = "have objects deleted"
            self.delete(key)
        except BadStore:
            raise
        except Exception as error:  # of the network, of the server
            said = " ".join(str(error).split())
            raise BadStore(f"the bucket {settings.bucket} cannot {doing}: {said}") from None

    def _unless_missing(self, operation: str, **arguments: str) -> Any:  # noqa: ANN401 # boto3's
        try:
            return getattr(self.client, operation)(Bucket=self.settings.bucket, **arguments)
        except self.client.exceptions.ClientError as error:
            if _status(error) == 404 and error.response["Error"]["Code"] != "NoSuchBucket":
                return None
            raise


def configured(*, soon: bool = False) -> ObjectStore | None:
    """The store that this stack keeps outputs and step logs in; None if volumes have them.

    Args:
        soon: Whether an error is better than a late answer.

    Raises:
        BadStore: The settings cannot be used.
    """
    try:
        changed_at = FILE.stat().st_mtime_ns
    except FileNotFoundError:
        return None
    # A process that is forked has connections of its own.
    return _configured(changed_at, os.getpid(), soon)


@functools.lru_cache(maxsize=2)
def _configured(changed_at: int, process: int, soon: bool) -> ObjectStore:
    del changed_at, process
    return ObjectStore(read_settings(FILE.read_text("utf-8", "replace")), soon=soon)


def required(*, soon: bool = False) -> ObjectStore:
    """The store of an image that was built for one.

    Args:
        soon: Whether an error is better than a late answer.

    Raises:
        BadStore: There is none, or its settings cannot be used.
    """
    store = configured(soon=soon)
    if not store:
        raise BadStore(
            "this image was built with STORE=s3, and the stack has no store: make deploy"
        )
    return store


def put_in(file: Path) -> None:
    """Changes compute_logs in a copy of dagster.yaml."""
    import yaml

    content: dict[str, Any] = yaml.safe_load(file.read_text())
    content["compute_logs"] = {**LOG_MANAGER, "config": {"base_dir": str(VOLUMES[LOGS])}}
    file.write_text(yaml.safe_dump(content, sort_keys=False))


def _status(error: Any) -> int:  # noqa: ANN401 # boto3 has no types
    return error.response["ResponseMetadata"]["HTTPStatusCode"]


def main() -> None:
    """Ends with status 1 and one line when the store, or its settings, cannot be used."""
    try:
        match sys.argv[1:]:
            case ["put-in", file]:
                put_in(Path(file))
            case ["check"]:
                required(soon=True).check()
            case _:
                sys.exit(__doc__)
    except BadStore as error:
        sys.exit(f"object store: {error}")


if __name__ == "__main__":
    main()
