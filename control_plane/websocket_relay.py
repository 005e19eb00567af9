"""Relays WebSockets between the edge and a web server, for as long as the session lasts.

The gap: the edge asks about a request once (Caddy's `forward_auth`). A WebSocket is one request, so
it went on answering after its user had signed out. The edge hands WebSockets to this relay, in the
container of the sign-in. Every few seconds the relay asks the edge whether it would still accept
the headers that the WebSocket came with, and ends the WebSocket when the answer changes. Could be
deleted if Caddy asked again about connections that stay open.
"""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any

from aiohttp import (
    ClientError,
    ClientSession,
    ClientTimeout,
    ClientWebSocketResponse,
    WSMsgType,
    web,
)

# On the internal network only: answers as the edge would answer any request with these headers.
EDGE = "http://edge.ui:8082/"
PROTOCOL = "graphql-ws"
WEB_SERVER_PORT = 3000
SECONDS_BETWEEN_CHECKS = 3
# Of one user; a tab of the web UI has one or two.
MAX_PER_USER = 100
# A client sends subscriptions; a web server sends up to a thousand events at once.
MAX_BYTES_FROM_CLIENT, MAX_BYTES_FROM_SERVER = 2**20, 64 * 2**20
# What says who the client is, also to an identity provider.
CREDENTIALS = ("Authorization", "Cookie")
CONTEXT = ("Host", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "User-Agent")
PASSED_ON = ("Host", "Origin", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto")


class Relay:
    """The open WebSockets."""

    def __init__(self) -> None:
        self.open: Counter[str] = Counter()

    @property
    def routes(self) -> list[web.RouteDef]:
        """What the edge rewrites WebSockets to: the name of the user's web server."""
        return [web.get(r"/websocket/{server:(webserver|viewer)\.ui}", self.handle)]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Relays one WebSocket until either end closes it or the user may not use it any more."""
        user = request.headers.get("Remote-User", "")
        async with ClientSession(timeout=ClientTimeout(total=10)) as session:
            if not await _is_still_allowed(session, request):
                return web.Response(status=401, text="sign in\n")
            if self.open[user] >= MAX_PER_USER:
                return web.Response(status=429, text=f"{MAX_PER_USER} WebSockets are open\n")
            self.open[user] += 1
            try:
                return await _relay(session, request)
            except (ClientError, OSError, TimeoutError):
                return web.Response(status=502, text="the web server does not answer\n")
            finally:
                self.open[user] -= 1


async def _relay(session: ClientSession, request: web.Request) -> web.StreamResponse:
    server = request.match_info["server"]
    async with session.ws_connect(
        f"http://{server}:{WEB_SERVER_PORT}/graphql",
        protocols=[PROTOCOL],
        headers=_only(request.headers, PASSED_ON),
        max_msg_size=MAX_BYTES_FROM_SERVER,
    ) as upstream:
        client = web.WebSocketResponse(
            protocols=[PROTOCOL], max_msg_size=MAX_BYTES_FROM_CLIENT, heartbeat=30, compress=False
        )
        await client.prepare(request)
        await _first_of(
            _pass_on(client, upstream),
            _pass_on(upstream, client),
            _watch(session, request),
        )
        # The web UI opens a new one, and is told to sign in.
        await client.close()
    return client


async def _pass_on(
    source: web.WebSocketResponse | ClientWebSocketResponse,
    target: web.WebSocketResponse | ClientWebSocketResponse,
) -> None:
    # The other end may have gone: aiohttp says so by an error of its own.
    with suppress(ConnectionError, ClientError):
        async for message in source:
            if message.type is not WSMsgType.TEXT:
                return
            await target.send_str(message.data)


async def _watch(session: ClientSession, request: web.Request) -> None:
    while await _is_still_allowed(session, request):
        await asyncio.sleep(SECONDS_BETWEEN_CHECKS)


async def _is_still_allowed(session: ClientSession, request: web.Request) -> bool:
    """Whether the edge would let the client through to the same web server now."""
    headers = _only(request.headers, (*CREDENTIALS, *CONTEXT))
    try:
        async with session.get(EDGE, headers=headers, allow_redirects=False) as answer:
            names = ("Remote-User", "Remote-Groups")
            return answer.status == 204 and _only(answer.headers, names) == _only(
                request.headers, names
            )
    except (ClientError, OSError, TimeoutError):
        return False


async def _first_of(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Runs them until one ends, and cancels the others."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _only(headers: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    return {name: headers[name] for name in names if name in headers}
