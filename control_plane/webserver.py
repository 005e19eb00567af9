"""The web server: Dagster's own, with fewer ways to be asked and a safe way to read step logs.

The gap: `dagster-webserver` executes GraphQL from a GET, from a form and from plain text, serves
GraphiQL, asks neither `Host` nor `Origin`, and follows links that user code puts among the step
logs. The edge lets none of these requests through (edge/Caddyfile); this server refuses them as
well, because the two parse the same bytes differently: to Caddy `/graphql%0A` is another path than
`/graphql`, to Starlette it is the same. Could be deleted if `dagster-webserver` accepted GraphQL as
same-origin JSON only, and opened step logs without following links.

    python -m control_plane.webserver --host NAME [--read-only]

Environment: WORKSPACE, UI_URL, ALLOWED_HOSTS (names, separated by blanks), ALLOW_ASSET_REPORTS.
"""

import argparse
import os
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote

import uvicorn
from dagster import DagsterInstance
from dagster._core.storage.compute_log_manager import ComputeIOType
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster_webserver.version import __version__
from dagster_webserver.webserver import DagsterWebserver
from starlette.concurrency import iterate_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.websockets import WebSocket

from control_plane.step_logs import StepLogs

PORT = 3000
# The names under which the edge's and this container's health checks ask.
INTERNAL_HOSTS = ("127.0.0.1", "webserver.ui", "viewer.ui")
# The command line's defaults (dagster_webserver.cli).
STATEMENT_TIMEOUT_MS, POOL_RECYCLE_SECONDS, MAX_OVERFLOW = 15_000, 3600, 20
LIVE_DATA_POLL_MS = 2000
# The UI's largest message over a WebSocket is a subscription of less than 10 kB.
MAX_WEBSOCKET_MESSAGE_BYTES = 1024 * 1024
HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
# Of what a request's JSON holds; a run's configuration has a tenth of it.
MAX_DEPTH = 100
# GraphQL has escapes of its own.
NUL_IN_GRAPHQL = re.compile(r"\\u(0000|\{0+\})")
JSON_TYPE = re.compile(r"application/json(\s*;.*)?")
IO_TYPES = {"out": ComputeIOType.STDOUT, "err": ComputeIOType.STDERR}
RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Refused(HTTPException):
    """A request is refused, with an HTTP status and the reason in one line."""


@dataclass(frozen=True)
class Rules:
    """Which requests the web server answers, whatever their path.

    Attributes:
        hosts: The names that it is called by, in lower case.
        ui_url: An origin that is this server's own, beside the one that `Host` says.
        asset_reports: Whether `/report_asset_*` is on.
    """

    hosts: frozenset[str]
    ui_url: str
    asset_reports: bool

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Rules":
        """Reads ALLOWED_HOSTS, UI_URL and ALLOW_ASSET_REPORTS."""
        names = [*environment["ALLOWED_HOSTS"].split(), *INTERNAL_HOSTS]
        return cls(
            frozenset(name.strip("[]").lower() for name in names),
            environment["UI_URL"],
            environment["ALLOW_ASSET_REPORTS"] == "1",
        )

    def check(self, path: str, headers: Headers) -> None:
        """Checks what every request has in common: its path, its host, its origin.

        Args:
            path: As Starlette routes it: decoded once.
            headers: The request's.

        Raises:
            Refused: One of them is not what a browser or an API client of this stack sends.
        """
        segments = path.split("/")[1:]
        empty = [n for n, segment in enumerate(segments) if not segment.strip(".")]
        # The last one may be empty: the path then ends in a slash.
        if (
            not path.isprintable()
            or "\\" in path
            or any(segments[n] or n != len(segments) - 1 for n in empty)
        ):
            raise Refused(400, "a path with control characters, empty or dotted segments")
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        host = HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if not host:
            raise Refused(400, "one Host, name and port, is needed")
        if host["name"].strip("[]").lower() not in self.hosts:
            raise Refused(421, f"unknown host: use {self.ui_url}, or add it to ALLOWED_HOSTS")
        scheme = "https" if headers.get("x-forwarded-proto") == "https" else "http"
        if origins not in ([], [f"{scheme}://{hosts[0]}"], [self.ui_url]):
            raise Refused(403, "the request comes from a page of another origin")


class KnownRequestsOnly:
    """ASGI middleware that holds every request and every WebSocket to the rules."""

    def __init__(self, app: Application, rules: Rules) -> None:
        """Wraps an application."""
        self.app = app
        self.rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a refused request, and passes any other on."""
        if scope["type"] in ("http", "websocket"):
            try:
                self.rules.check(scope["path"], Headers(scope=scope))
            except Refused as refusal:
                if scope["type"] == "http":
                    answer = PlainTextResponse(refusal.detail, refusal.status_code)
                    await answer(scope, receive, send)
                else:
                    # Before it is accepted: the client sees the status 403.
                    await send({"type": "websocket.close", "code": 1008})
                return
        await self.app(scope, receive, send)


class Webserver(DagsterWebserver[WorkspaceProcessContext, Any]):
    """Dagster's web server, which executes GraphQL only for same-origin POSTs of JSON."""

    def __init__(self, context: WorkspaceProcessContext, rules: Rules, logs: StepLogs) -> None:
        """Does not listen yet."""
        self.rules = rules
        self.logs = logs
        super().__init__(context, live_data_poll_rate=LIVE_DATA_POLL_MS)

    def build_middleware(self) -> list[Middleware]:
        """Puts the rules before everything else."""
        return [Middleware(KnownRequestsOnly, rules=self.rules), *super().build_middleware()]

    async def graphql_http_endpoint(self, request: Request) -> JSONResponse:
        """Executes one operation; neither GET, forms, batches nor GraphiQL."""
        if request.method != "POST":
            raise Refused(405, "GraphQL takes POST only")
        if request.query_params.keys() - {"op"}:
            raise Refused(400, "GraphQL in the URL is refused: send it in the body")
        query, variables, operation = operation_of(await json_body(request))
        return await self.execute_graphql_request(request, query, variables, operation)

    async def graphql_ws_endpoint(self, websocket: WebSocket) -> None:
        """Serves subscriptions, until the client says something that is not its protocol."""
        # What upstream raises for a message that is not an object of the expected shape.
        with suppress(AttributeError, KeyError, TypeError, ValueError):
            await super().graphql_ws_endpoint(websocket)

    async def download_captured_logs_endpoint(  # pyright: ignore[reportIncompatibleMethodOverride] # no file
        self, request: Request
    ) -> Response:
        """Sends one stream of a step's output as a file."""
        *key, extension = request.path_params["path"].split("/")
        io_type = IO_TYPES.get(extension)
        chunks = io_type and self.logs.open_chunks(key, io_type)
        if not chunks:
            raise Refused(404, "there is no such log")
        name = quote(f"{'__'.join(key)}.{extension}", safe="")
        return StreamingResponse(
            iterate_in_threadpool(chunks),
            media_type="text/plain; charset=utf-8",
            headers={
                "Content-Disposition": f"attachment; filename*=utf-8''{name}",
                "Cache-Control": "no-store",
            },
        )

    async def download_debug_file_endpoint(self, request: Request) -> StreamingResponse:
        """Sends a run's debug file; upstream answers 500 for a run that is not there."""
        run = request.path_params["run_id"]
        with self.request_context(request) as context:
            if not RUN_ID.fullmatch(run) or context.instance.get_run_by_id(run) is None:
                raise Refused(404, "there is no such run")
        return await super().download_debug_file_endpoint(request)

    async def report_asset_materialization_endpoint(self, request: Request) -> JSONResponse:
        """Takes a report, where that is switched on."""
        await self._check_report(request)
        return await super().report_asset_materialization_endpoint(request)

    async def report_asset_check_endpoint(self, request: Request) -> JSONResponse:
        """Takes a report, where that is switched on."""
        await self._check_report(request)
        return await super().report_asset_check_endpoint(request)

    async def report_asset_observation_endpoint(self, request: Request) -> JSONResponse:
        """Takes a report, where that is switched on."""
        await self._check_report(request)
        return await super().report_asset_observation_endpoint(request)

    async def _check_report(self, request: Request) -> None:
        if not self.rules.asset_reports:
            raise Refused(403, "reporting over HTTP is off: ALLOW_ASSET_REPORTS=1 switches it on")
        await json_body(request)


async def json_body(request: Request) -> dict[str, Any]:
    """Parses the body of a request, strictly.

    Raises:
        Refused: It is not one JSON object, or holds text that the database cannot store.
    """
    types = request.headers.getlist("content-type")
    if len(types) != 1 or not JSON_TYPE.fullmatch(types[0]):
        raise Refused(415, "application/json only")
    try:
        # Starlette keeps what it has parsed, for upstream's handlers.
        body = await request.json()
        check_values(body)
    except (ValueError, RecursionError) as error:
        reason = "the body is not plain JSON"
        raise Refused(400, f"{reason}: {type(error).__name__}") from None
    if not isinstance(body, dict):
        raise Refused(400, "the body is not one JSON object; batches are off")
    return cast("dict[str, Any]", body)


def operation_of(body: Mapping[str, Any]) -> tuple[str, dict[str, Any] | None, str | None]:
    """Takes query, variables and operation name out of a GraphQL request.

    Raises:
        Refused: One of them is of another type.
    """
    query, variables, name = (body.get(key) for key in ("query", "variables", "operationName"))
    if not isinstance(query, str):
        raise Refused(400, "the body has no GraphQL query")
    if NUL_IN_GRAPHQL.search(query):
        raise Refused(400, "the query has a NUL character")
    if not isinstance(variables, dict | None) or not isinstance(name, str | None):
        raise Refused(400, "`variables` is an object and `operationName` a string")
    return query, cast("dict[str, Any] | None", variables), name


def check_values(value: object, depth: int = MAX_DEPTH) -> None:
    """Raises ValueError for what Postgres cannot store, and for what nests too deep."""
    if depth == 0:
        raise ValueError(f"deeper than {MAX_DEPTH}")
    if isinstance(value, str):
        value.encode()  # a UnicodeEncodeError for lone surrogates
        if "\0" in value:
            raise ValueError("a NUL character")
    elif isinstance(value, dict):
        for pair in cast("dict[str, object]", value).items():
            for item in pair:
                check_values(item, depth - 1)
    elif isinstance(value, list):
        for item in cast("list[object]", value):
            check_values(item, depth - 1)


def main() -> None:
    """Serves until stopped."""
    parser = argparse.ArgumentParser(prog="control_plane.webserver")
    parser.add_argument("--host", required=True, help="the name or address to listen on")
    parser.add_argument("--read-only", action="store_true", help="refuse every change")
    arguments = parser.parse_args()
    with DagsterInstance.get() as instance:
        instance.optimize_for_webserver(STATEMENT_TIMEOUT_MS, POOL_RECYCLE_SECONDS, MAX_OVERFLOW)
        logs = StepLogs.replacing(instance)
        with WorkspaceProcessContext(
            instance,
            version=__version__,
            read_only=arguments.read_only,
            workspace_load_target=WorkspaceFileTarget([os.environ["WORKSPACE"]]),
        ) as context:
            server = Webserver(context, Rules.from_environment(os.environ), logs)
            uvicorn.run(
                cast("Any", server).create_asgi_app(),
                host=arguments.host,
                port=PORT,
                log_level="warning",
                ws_max_size=MAX_WEBSOCKET_MESSAGE_BYTES,
            )


if __name__ == "__main__":
    main()
