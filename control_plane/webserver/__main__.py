"""The web server: Dagster's own, limited to known requests, with a safe way to read step logs.

The gap: `dagster-webserver` answers requests that only an attacker sends (request_rules.py), serves
GraphiQL, and follows symbolic links that user code puts among the step logs (step_logs.py). This
module could be deleted if `dagster-webserver` accepted GraphQL as same-origin JSON only, and opened
step logs without following links.

    python -m control_plane.webserver --host NAME [--read-only]

Environment: COMPOSE_PROFILES (workspace.py), UI_URL, ALLOWED_HOSTS (names, separated by spaces),
ALLOW_ASSET_REPORTS.
"""

import argparse
import os
import re
from contextlib import suppress
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
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.websockets import WebSocket

from control_plane.connections import keep_connections
from control_plane.launcher.images import note_images
from control_plane.webserver.request_rules import (
    KnownRequestsOnly,
    Refused,
    Rules,
    json_body,
    operation_of,
)
from control_plane.webserver.step_logs import StepLogs
from control_plane.workspace import name_code_location, workspace_files

PORT = 3000
# The default of the command `dagster-webserver` (dagster_webserver.cli).
STATEMENT_TIMEOUT_MS = 15_000
LIVE_DATA_POLL_MS = 2000
# Longer than Caddy keeps an idle connection (2 minutes). With uvicorn's 5 s, the web server could
# close a connection while Caddy sends a launch on it, and the client got 502.
KEEP_ALIVE_SECONDS = 180
# The UI's largest WebSocket message is a subscription of less than 10 kB.
MAX_WEBSOCKET_MESSAGE_BYTES = 1024 * 1024
IO_TYPES = {"out": ComputeIOType.STDOUT, "err": ComputeIOType.STDERR}
RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Webserver(DagsterWebserver[WorkspaceProcessContext, Any]):
    """Dagster's web server, limited to GraphQL in same-origin POST requests of JSON."""

    def __init__(self, context: WorkspaceProcessContext, rules: Rules, logs: StepLogs) -> None:
        """Does not listen yet."""
        self.rules = rules
        self.logs = logs
        super().__init__(context, live_data_poll_rate=LIVE_DATA_POLL_MS)

    def build_middleware(self) -> list[Middleware]:
        """Puts the rules before everything else."""
        return [Middleware(KnownRequestsOnly, rules=self.rules), *super().build_middleware()]

    async def graphql_http_endpoint(self, request: Request) -> JSONResponse:
        """Executes one operation. Refuses GET, forms and batches, and does not serve GraphiQL."""
        if request.method != "POST":
            raise Refused(405, "GraphQL takes POST only")
        if request.query_params.keys() - {"op"}:
            raise Refused(400, "GraphQL in the URL is refused: send it in the body")
        query, variables, operation = operation_of(await json_body(request))
        return await self.execute_graphql_request(request, query, variables, operation)

    async def graphql_ws_endpoint(self, websocket: WebSocket) -> None:
        """Serves subscriptions until the client sends a message that violates the protocol."""
        # Upstream raises these for a message that is not an object of the expected shape.
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
        """Sends a run's debug file. Upstream answers 500 for a run that does not exist."""
        run = request.path_params["run_id"]
        with self.request_context(request) as context:
            if not RUN_ID.fullmatch(run) or context.instance.get_run_by_id(run) is None:
                raise Refused(404, "there is no such run")
        return await super().download_debug_file_endpoint(request)

    async def report_asset_materialization_endpoint(self, request: Request) -> JSONResponse:
        """Accepts an asset report if ALLOW_ASSET_REPORTS is 1."""
        await self._check_report(request)
        return await super().report_asset_materialization_endpoint(request)

    async def report_asset_check_endpoint(self, request: Request) -> JSONResponse:
        """Accepts an asset report if ALLOW_ASSET_REPORTS is 1."""
        await self._check_report(request)
        return await super().report_asset_check_endpoint(request)

    async def report_asset_observation_endpoint(self, request: Request) -> JSONResponse:
        """Accepts an asset report if ALLOW_ASSET_REPORTS is 1."""
        await self._check_report(request)
        return await super().report_asset_observation_endpoint(request)

    async def _check_report(self, request: Request) -> None:
        if not self.rules.asset_reports:
            raise Refused(
                403, "asset reports over HTTP are off: ALLOW_ASSET_REPORTS=1 switches them on"
            )
        await json_body(request)


def main() -> None:
    """Serves until it is stopped."""
    parser = argparse.ArgumentParser(prog="control_plane.webserver")
    parser.add_argument("--host", required=True, help="the name or address to listen on")
    parser.add_argument("--read-only", action="store_true", help="refuse every change")
    arguments = parser.parse_args()
    name_code_location()
    note_images(for_clients=True)
    with DagsterInstance.get() as instance:
        keep_connections(instance, STATEMENT_TIMEOUT_MS)
        logs = StepLogs.replacing(instance)
        # The instance page shows `NoneType` for what was never asked for.
        _ = instance.run_coordinator
        with WorkspaceProcessContext(
            instance,
            version=__version__,
            read_only=arguments.read_only,
            workspace_load_target=WorkspaceFileTarget(workspace_files()),
        ) as context:
            server = Webserver(context, Rules.from_environment(os.environ), logs)
            uvicorn.run(
                cast("Any", server).create_asgi_app(),
                host=arguments.host,
                port=PORT,
                log_level="warning",
                ws_max_size=MAX_WEBSOCKET_MESSAGE_BYTES,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
            )


if __name__ == "__main__":
    main()
