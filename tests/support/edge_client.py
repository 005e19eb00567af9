"""Requests to the edge, sent exactly as they are given."""

import http.client
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType

from support.cli import OPERATOR, basic

JSON = {"Content-Type": "application/json"}
WEBSOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol": "graphql-ws",
}


def ask(stack, method, path, headers=MappingProxyType({}), body=b"", *, host=None, sign_in=True):
    """Sends a request exactly as given; returns the response, read."""
    address, port = stack.address
    connection = http.client.HTTPConnection(address, port, timeout=60)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    connection.putheader("Host", host or f"{address}:{port}")
    if sign_in:
        connection.putheader("Authorization", basic(OPERATOR, stack.password))
    for name, value in headers.items() if isinstance(headers, Mapping) else headers:
        connection.putheader(name, value.replace("{origin}", stack.url))
    if body:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders()
    with suppress(BrokenPipeError, ConnectionResetError):  # refused before all of it was sent
        connection.send(body)
    response = connection.getresponse()
    response.text = response.read(100_000).decode() if response.status != 101 else ""
    connection.close()
    return response
