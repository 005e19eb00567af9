"""Starts the BigQuery emulator, with corrections for bqemulator 1.4 and TLS for its gRPC API.

Each correction can be deleted when a release contains it. The one for uploads is
jjviscomi/bqemulator#266 (open). Spark's connector needs the others.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import bqemulator.server
import grpc
import pyarrow as pa
from bqemulator.api.app import create_app
from bqemulator.api.dependencies import AppContext
from bqemulator.api.routes import jobs, tabledata, upload
from bqemulator.catalog.models import JobMeta, TableMeta
from bqemulator.cli import main
from bqemulator.domain.errors import InvalidQueryError, ResourceRef, resource_not_found
from bqemulator.grpc_api import write_servicer
from bqemulator.grpc_api.server import build_grpc_server
from bqemulator.streaming import read_session
from fastapi import FastAPI
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

# Spark's connector supports only TLS. This port protects nothing: the certificate is new at each
# start, and clients trust any certificate.
TLS_PORT = 9061
PROJECT = "dagster"
# The reason why a query failed, by the ID of its job.
FAILED: dict[str | None, str] = {}


def certificate() -> tuple[bytes, bytes]:
    """A new private key and its self-signed certificate for the host `bigquery`."""
    with tempfile.TemporaryDirectory() as folder:
        key, cert = Path(folder, "key"), Path(folder, "cert")
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
             "-nodes", "-days", "3650", "-subj", "/CN=bigquery",
             "-addext", "subjectAltName=DNS:bigquery", "-keyout", key, "-out", cert],
            check=True, capture_output=True,
        )  # fmt: skip
        return key.read_bytes(), cert.read_bytes()


def grpc_server_with_tls(context: AppContext) -> tuple[grpc.aio.Server, int]:
    """The emulator's own gRPC server, with one more port."""
    server, port = build_grpc_server(context)
    server.add_secure_port(f"0.0.0.0:{TLS_PORT}", grpc.ssl_server_credentials([certificate()]))
    return server, port


class Requests:
    """Middleware that corrects how the emulator treats requests."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Applies the header x-http-method-override, and refuses other projects.

        Google's Java client sends PATCH as POST with that header. The emulator answers 405. The
        emulator accepts any project, but BigQuery refuses projects that do not exist.
        """
        headers = dict(scope.get("headers", ()))
        if method := headers.get(b"x-http-method-override"):
            scope = {**scope, "method": method.decode()}
        answer = self.app
        project = re.search("/projects/([^/]+)/", scope.get("path", ""))
        if project and project[1] != PROJECT:
            why = {"reason": "notFound", "message": f"Not found: Project {project[1]}"}
            answer = JSONResponse({"error": {"code": 404, "errors": [why], **why}}, 404)
        await answer(scope, receive, send)


def app_with_requests_mended(context: AppContext) -> FastAPI:
    """The emulator's REST API, with that middleware."""
    app = create_app(context)
    app.add_middleware(Requests)
    return app


async def query_into_its_table(
    project: str, job: str, config: dict[str, Any], *, dry_run: bool, **rest: object
) -> JobMeta | dict[str, Any]:
    """Writes the result to destinationTable, which the emulator ignores."""
    query, table = config["query"], config["query"].get("destinationTable")
    if table and not dry_run:
        name = ".".join((table.get("projectId", project), table["datasetId"], table["tableId"]))
        query = {**query, "query": f"CREATE OR REPLACE TABLE `{name}` AS {query['query']}"}
    config = {**config, "query": query}
    done = await handle_query_job(project, job, config, dry_run=dry_run, **rest)
    if error := getattr(done, "error_result", None):
        FAILED[job] = error["message"]
    return done


def why_there_is_no_result(resource: ResourceRef) -> Exception:
    """The error for the result of a failed query. The emulator would report a missing job."""
    if reason := FAILED.get(resource.resource_id):
        return InvalidQueryError(reason)
    return resource_not_found(resource)


def schema_message(schema: pa.Schema) -> bytes:
    """The schema alone. The emulator adds an end-of-stream mark, and clients then read no row."""
    return schema.serialize().to_pybytes()


def schema_with_fields(table: TableMeta) -> pa.Schema:
    """The schema of a table. In the Storage Write API the emulator drops the fields of a STRUCT."""
    return tabledata._build_arrow_schema(tabledata._fields_raw_from_schema(table.schema_.fields))


handle_query_job = jobs._handle_query_job
bqemulator.server.build_grpc_server = grpc_server_with_tls
bqemulator.server.create_app = app_with_requests_mended
jobs._handle_query_job = query_into_its_table
jobs.resource_not_found = why_there_is_no_result
read_session._serialise_arrow_schema = schema_message
write_servicer._table_arrow_schema = schema_with_fields
# Google's Python client sends tables under 5 MiB as `*/*`, which the emulator refuses.
upload._PERMITTED_MEDIA_CONTENT_TYPES += ("*/*",)
sys.exit(main(["start", "--project", PROJECT, *sys.argv[1:]]))
