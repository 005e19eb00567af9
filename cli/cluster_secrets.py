"""The Secrets of the stack on a cluster: what `prepare` writes to volumes on one machine."""

from __future__ import annotations

import base64
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from cli.cluster import PART_OF, Cluster
from cli.errors import StackError

# Roles of the database, each with a Secret of its own (control_plane/postgres/roles.sql).
ROLES = ("owner", "control", "code", "viewer")
USERS = ("dagster", "viewer")


def put_all(cluster: Cluster) -> None:
    """Makes passwords, unless there are some, and hands over the operator's own files."""
    kept = cluster.get("secret", "postgres-credentials")
    if kept:
        text = base64.b64decode(kept["data"]["passwords.sql"]).decode()
        passwords = dict(re.findall(r"ROLE dagster_(\w+) PASSWORD '(.*)';", text))
    elif cluster.get("persistentvolumeclaim", "postgres-data-postgres-0"):
        raise StackError(
            "the database is there, and the Secret postgres-credentials with its passwords is"
            " gone: put it back (docs/how-to/move-to-a-cluster.md)"
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
    _put(cluster, "postgres-credentials", {"passwords.sql": sql, "pgpass": pgpass["viewer"]})
    for role in ROLES:
        _put(cluster, f"{role}-credentials", {"pgpass": pgpass[role], **of_store})
    if not cluster.get("secret", "sign-in-credentials"):
        _put(cluster, "sign-in-credentials", {user: secrets.token_urlsafe(32) for user in USERS})
    of_edge = ("ca_bundle", "tls_certificate", "tls_key")
    _put(cluster, "files", {name: texts[name] for name in of_edge if name in texts})
    for service, folder in cluster.stack.projects.items():
        env = folder / ".env"
        given = {".env": env.read_text()} if env.is_file() else {}
        _put(cluster, f"{service.replace('_', '-')}-settings", given)


def _put(cluster: Cluster, name: str, texts: Mapping[str, str]) -> None:
    metadata = {"name": name, "namespace": cluster.name, "labels": {PART_OF: cluster.name}}
    encoded = {key: base64.b64encode(one.encode()).decode() for key, one in texts.items()}
    cluster.apply([{"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": encoded}])
