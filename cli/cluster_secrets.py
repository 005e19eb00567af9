"""The Secrets of the stack on a cluster: what `prepare` writes to volumes on one machine."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cli.cluster import PART_OF, Cluster
from cli.errors import StackError

# Roles of the database, each with a Secret of its own (control_plane/postgres/roles.sql).
ROLES = ("owner", "control", "code", "viewer")
USERS = ("dagster", "viewer")
SIGN_IN, CREDENTIALS = "sign-in-credentials", "postgres-credentials"
SIGNED = "dagster.stack/secrets"


def put_all(cluster: Cluster) -> None:
    """Makes passwords, unless there are some, and hands over the operator's own files."""
    kept = cluster.secret(CREDENTIALS)
    if kept:
        text = kept["passwords.sql"].decode()
        passwords = dict(re.findall(r"ROLE dagster_(\w+) PASSWORD '(.*)';", text))
    elif cluster.get("persistentvolumeclaim", "postgres-data-postgres-0"):
        clients = {role: cluster.secret(f"{role}-credentials").get("pgpass") for role in ROLES}
        passwords = {
            r: one.decode().strip().rpartition(":")[2] for r, one in clients.items() if one
        }
        if len(passwords) < len(ROLES):
            raise StackError(
                "the database is there, and its passwords are gone: neither the Secret"
                f" {CREDENTIALS} nor those of all clients are there (ROLE-credentials)"
            )
    else:
        passwords = {role: secrets.token_urlsafe(32) for role in ROLES}
    pgpass = {role: f"*:*:*:dagster_{role}:{passwords[role]}\n" for role in ROLES}
    files = {name: one["file"] for name, one in cluster.config["secrets"].items()}
    texts = {name: Path(file).read_text() for name, file in files.items() if file != os.devnull}
    of_store = {
        "store.ini": texts["store_config"],
        "store_authorities.pem": texts.get("ca_bundle", ""),
    }
    sql = "".join(f"ALTER ROLE dagster_{r} PASSWORD '{passwords[r]}';\n" for r in ROLES)
    if not kept:  # of two commands at once, the second one is refused
        text = {"passwords.sql": sql, "pgpass": pgpass["viewer"]}
        cluster.kubectl(
            "create", "--filename=-", given=json.dumps(_secret(cluster, CREDENTIALS, text))
        )
    for role in ROLES:
        _put(cluster, f"{role}-credentials", {"pgpass": pgpass[role], **of_store})
    if not cluster.secret(SIGN_IN):
        _put(cluster, SIGN_IN, {user: secrets.token_urlsafe(32) for user in USERS})
    of_edge = ("ca_bundle", "tls_certificate", "tls_key")
    _put(cluster, "files", {name: texts[name] for name in of_edge if name in texts})
    for service in cluster.stack.projects:
        own = f"{service.replace('_', '-')}-secrets"
        if not cluster.get("secret", own):
            _put(cluster, own, {})


def put_settings(cluster: Cluster, service: str, *, name: str = "") -> None:
    """Hands over the .env of a project.

    Args:
        cluster: The cluster.
        service: The service of its code location.
        name: The Secret. The default is that of the code location and its runs.
    """
    env = cluster.stack.projects[service] / ".env"
    given = {".env": env.read_text()} if env.is_file() else {}
    _put(cluster, name or settings_of(service), given)


def settings_of(service: str) -> str:
    """The Secret with the .env of a project (control_plane/cluster/run_pods.py)."""
    return f"{service.replace('_', '-')}-settings"


def sign(cluster: Cluster, objects: Sequence[dict[str, Any]]) -> None:
    """Notes on each pod what is in the Secrets that it mounts. If they change, it starts again."""
    known: dict[str, dict[str, bytes]] = {}
    for one in objects:
        template: dict[str, Any] | None = one.get("spec", {}).get("template")
        if one["kind"] not in ("Deployment", "StatefulSet") or not template:
            continue
        volumes: list[dict[str, Any]] = template["spec"]["volumes"]
        names = sorted(v["secret"]["secretName"] for v in volumes if "secret" in v)
        known |= {name: cluster.secret(name) for name in names if name not in known}
        seen = repr([(name, sorted(known[name].items())) for name in names]).encode()
        template["metadata"]["annotations"][SIGNED] = hashlib.sha256(seen).hexdigest()[:16]


def keep(cluster: Cluster, folder: Path) -> dict[str, str]:
    """Writes what a backup has of the Secrets to files, as they are in volumes on one machine.

    Returns:
        Folders, by the names of those volumes.
    """
    texts = {f"{SIGN_IN}/{user}": one for user, one in cluster.secret(SIGN_IN).items()}
    for service in cluster.stack.projects:
        own = cluster.secret(f"{service.replace('_', '-')}-secrets")
        # The mark of a volume with settings: the next start writes them again.
        texts[f"{service}-settings/.env"] = b""
        texts |= {f"{service}-settings/secrets/{name}": one for name, one in own.items()}
    for path, text in texts.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.touch(0o600)
        file.write_bytes(text)
    return {name: str(folder / name) for name in {path.partition("/")[0] for path in texts}}


def bring(cluster: Cluster, given: Mapping[str, str]) -> None:
    """Makes Secrets of the users' passwords and the secrets in a backup.

    Args:
        cluster: The cluster.
        given: What is in each file, in base64, by the path in the volumes of one machine.
    """
    found: dict[str, dict[str, str]] = {}
    for path, content in given.items():
        volume, name = path.partition("/")[0], path.rpartition("/")[2]
        service = volume.removesuffix("-settings").replace("_", "-")
        secret = volume if volume == SIGN_IN else f"{service}-secrets"
        found.setdefault(secret, {})[name] = content
    for secret, encoded in found.items():
        cluster.apply([_encoded(cluster, secret, encoded)])


def _put(cluster: Cluster, name: str, texts: Mapping[str, str]) -> None:
    cluster.apply([_secret(cluster, name, texts)])


def _secret(cluster: Cluster, name: str, texts: Mapping[str, str]) -> dict[str, Any]:
    encoded = {key: base64.b64encode(one.encode()).decode() for key, one in texts.items()}
    return _encoded(cluster, name, encoded)


def _encoded(cluster: Cluster, name: str, encoded: Mapping[str, str]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": cluster.name, "labels": {PART_OF: cluster.name}}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": dict(encoded)}
