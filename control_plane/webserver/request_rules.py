"""The rules for requests to the web server: path, host, origin and body.

The gap: `dagster-webserver` executes GraphQL from a GET, from a form and from plain text, and does
not check `Host` or `Origin`. The edge (control_plane/edge/Caddyfile) refuses all of these requests.
The web server refuses them as well, because edge and web server parse the same bytes differently.
To Caddy, `/graphql%0A` and `/graphql` are different paths. To Starlette they are the same. This
module could be deleted if `dagster-webserver` accepted GraphQL only as same-origin JSON.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, cast

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse

# The host names that the health checks of the edge and of this container use.
INTERNAL_HOSTS = ("127.0.0.1", "webserver.ui", "viewer.ui")
HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
# The levels of nesting in a request's JSON. The configuration of a run needs a tenth of this.
MAX_DEPTH = 100
# A NUL character written with GraphQL's own escapes.
NUL_IN_GRAPHQL = re.compile(r"\\u(0000|\{0+\})")
JSON_TYPE = re.compile(r"application/json(\s*;.*)?")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Refused(HTTPException):
    """A request is refused: the HTTP status, and the reason in one line."""


@dataclass(frozen=True)
class Rules:
    """The rules that apply to every request, whatever its path.

    Attributes:
        hosts: The host names of this server, in lower case.
        ui_url: An origin of this server, in addition to the one that `Host` gives.
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
        """Checks the path, the host and the origin of a request.

        Args:
            path: The path that Starlette routes: decoded once.
            headers: The headers of the request.

        Raises:
            Refused: No browser or API client of this stack sends such a request.
        """
        segments = path.split("/")[1:]
        empty = [n for n, segment in enumerate(segments) if not segment.strip(".")]
        # The last segment may be empty: the path then ends in a slash.
        if (
            not path.isprintable()
            or "\\" in path
            or any(segments[n] or n != len(segments) - 1 for n in empty)
        ):
            raise Refused(400, "malformed path: control characters, or an empty or dotted segment")
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        host = HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if not host:
            raise Refused(400, "malformed Host: it must be one name and port")
        if host["name"].strip("[]").lower() not in self.hosts:
            raise Refused(421, f"unknown host: use {self.ui_url}, or add the name to ALLOWED_HOSTS")
        scheme = "https" if headers.get("x-forwarded-proto") == "https" else "http"
        if origins not in ([], [f"{scheme}://{hosts[0]}"], [self.ui_url]):
            raise Refused(403, "refused: from a page of another origin")


class KnownRequestsOnly:
    """ASGI middleware that checks every request and every WebSocket."""

    def __init__(self, app: Application, rules: Rules) -> None:
        """Takes the application that answers allowed requests."""
        self.app = app
        self.rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a refused request; forwards any other to the application."""
        if scope["type"] in ("http", "websocket"):
            try:
                self.rules.check(scope["path"], Headers(scope=scope))
            except Refused as refusal:
                if scope["type"] == "http":
                    answer = PlainTextResponse(refusal.detail, refusal.status_code)
                    await answer(scope, receive, send)
                else:
                    # The WebSocket is not accepted yet, so the client gets the status 403.
                    await send({"type": "websocket.close", "code": 1008})
                return
        await self.app(scope, receive, send)


async def json_body(request: Request) -> dict[str, Any]:
    """Parses the body of a request strictly.

    Raises:
        Refused: The body is not one JSON object, or contains text that Postgres cannot store.
    """
    types = request.headers.getlist("content-type")
    if len(types) != 1 or not JSON_TYPE.fullmatch(types[0]):
        raise Refused(415, "refused content type: send the header Content-Type: application/json")
    try:
        # Starlette caches the parsed body for upstream's handlers.
        body = await request.json()
        check_values(body)
    except (ValueError, RecursionError) as error:
        reason = "the body is not plain JSON"
        raise Refused(400, f"{reason}: {type(error).__name__}") from None
    if not isinstance(body, dict):
        raise Refused(400, "the body is not one JSON object; batches are not supported")
    return cast("dict[str, Any]", body)


def operation_of(body: Mapping[str, Any]) -> tuple[str, dict[str, Any] | None, str | None]:
    """Returns the query, the variables and the operation name of a GraphQL request.

    Raises:
        Refused: One of them has the wrong type.
    """
    query, variables, name = (body.get(key) for key in ("query", "variables", "operationName"))
    if not isinstance(query, str):
        raise Refused(400, "the body has no GraphQL query")
    if NUL_IN_GRAPHQL.search(query):
        raise Refused(400, "the query contains a NUL character")
    if not isinstance(variables, dict | None) or not isinstance(name, str | None):
        raise Refused(400, "`variables` must be an object, and `operationName` a string")
    return query, cast("dict[str, Any] | None", variables), name


def check_values(value: object, depth: int = MAX_DEPTH) -> None:
    """Raises ValueError for text that Postgres cannot store, and for too many levels."""
    if depth == 0:
        raise ValueError(f"more than {MAX_DEPTH} levels of nesting")
    if isinstance(value, str):
        value.encode()  # raises UnicodeEncodeError for lone surrogates
        if "\0" in value:
            raise ValueError("a NUL character")
    elif isinstance(value, dict):
        for pair in cast("dict[str, object]", value).items():
            for item in pair:
                check_values(item, depth - 1)
    elif isinstance(value, list):
        for item in cast("list[object]", value):
            check_values(item, depth - 1)
