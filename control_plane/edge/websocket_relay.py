"""Relays WebSockets between the edge and a web server while their session lasts.

The gap: the edge checks the credentials of a request once (Caddy's `forward_auth`). A WebSocket is
one request, so it would stay open after its user has signed out. The edge forwards WebSockets to
this relay, which runs in the container of the sign-in. Every few seconds the relay sends the
headers that opened the WebSocket to the edge again. It closes the WebSocket when the edge refuses
them or names another group. This module could be deleted if Caddy checked open connections again.

The relay forwards bytes and does not parse messages, which can have any size. It buffers at most
64 KiB in each direction.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from aiohttp import ClientError, ClientSession, ClientTimeout

PORT = 8001
# On the internal network only. The edge answers as it would answer any request with these headers.
EDGE = "http://edge.ui:8082/"
WEB_SERVER_PORT = 3000
# The edge rewrites the path of a WebSocket to the name of the web server for its user.
REQUEST = re.compile(r"GET /websocket/(?P<server>(webserver|viewer)\.ui)(\?\S*)? HTTP/1\.1")
SECONDS_BETWEEN_CHECKS = 3
SECONDS_TO_CONNECT = 10
# Open WebSockets of one user. A tab of the web UI has one or two.
MAX_PER_USER = 100
BUFFER_BYTES = 64 * 1024
# The headers that an identity provider needs as well: who the client is, and how it connects.
CREDENTIALS = ("authorization", "cookie")
CONTEXT = ("host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "user-agent")
USER = ("remote-user", "remote-groups")
ANSWER = "HTTP/1.1 {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Relay:
    """The open WebSockets."""

    def __init__(self) -> None:
        self.open: Counter[str] = Counter()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relays one WebSocket until one end closes it or its session ends."""
        with suppress(OSError, EOFError, asyncio.LimitOverrunError, TimeoutError):
            try:
                refusal = await self._relay(reader, writer)
                if refusal:
                    writer.write(ANSWER.format(refusal).encode())
                    await writer.drain()
            finally:
                writer.close()

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> str | None:
        """Relays, or returns the status of the refusal."""
        async with asyncio.timeout(SECONDS_TO_CONNECT):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.strip().split("\r\n")
        request = REQUEST.fullmatch(line)
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (field.partition(":") for field in fields)
        }
        if not request:
            return "404 Not Found"
        user = headers.get("remote-user", "")
        async with ClientSession(timeout=ClientTimeout(total=SECONDS_TO_CONNECT)) as session:
            if not await _is_still_allowed(session, headers):
                return "401 Unauthorized"
            if self.open[user] >= MAX_PER_USER:
                return "429 Too Many Requests"
            try:
                async with asyncio.timeout(SECONDS_TO_CONNECT):
                    upstream = await asyncio.open_connection(
                        request["server"], WEB_SERVER_PORT, limit=BUFFER_BYTES
                    )
            except OSError:
                return "502 Bad Gateway"
            self.open[user] += 1
            try:
                upstream[1].write(_without_credentials(fields).encode("latin-1"))
                await _first_of(
                    _pass_on(reader, upstream[1]),
                    _pass_on(upstream[0], writer),
                    _watch(session, headers),
                )
            finally:
                self.open[user] -= 1
                upstream[1].close()
        return None


def _without_credentials(fields: list[str]) -> str:
    kept = [one for one in fields if one.partition(":")[0].strip().lower() not in CREDENTIALS]
    return "\r\n".join(["GET /graphql HTTP/1.1", *kept, "", ""])


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    # Backpressure: while the receiver does not read, nothing more is read from the sender.
    writer.transport.set_write_buffer_limits(BUFFER_BYTES)
    with suppress(OSError):
        while data := await reader.read(BUFFER_BYTES):
            writer.write(data)
            await writer.drain()


async def _watch(session: ClientSession, headers: Mapping[str, str]) -> None:
    while await _is_still_allowed(session, headers):
        await asyncio.sleep(SECONDS_BETWEEN_CHECKS)


async def _is_still_allowed(session: ClientSession, headers: Mapping[str, str]) -> bool:
    """Whether the edge would now forward the client to the same web server."""
    asked = {name: headers[name] for name in (*CREDENTIALS, *CONTEXT) if name in headers}
    try:
        async with session.get(EDGE, headers=asked, allow_redirects=False) as answer:
            return answer.status == 204 and all(
                answer.headers.get(name, "") == headers.get(name, "") for name in USER
            )
    except (ClientError, OSError, TimeoutError):
        return False


async def _first_of(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Runs the coroutines until one ends, and cancels the others."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def edge_answers() -> None:
    """Waits until the edge listens."""
    address = urlsplit(EDGE)
    while True:
        with suppress(OSError):
            _, writer = await asyncio.open_connection(address.hostname, address.port)
            writer.close()
            return
        await asyncio.sleep(1)


async def start_relay(_: object) -> None:
    """Starts the relay in the process of the sign-in."""
    await asyncio.start_server(Relay().handle, port=PORT, limit=BUFFER_BYTES)
