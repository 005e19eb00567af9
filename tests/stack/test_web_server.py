"""What the web server itself answers, with no edge before it (control_plane/webserver/)."""

import json

import pytest

from support.cli import docker
from support.edge_client import WEBSOCKET

# Sends each request as it is; prints status and body of the answers.
SEND = """
import json, socket, sys
for method, target, headers, body in json.loads(sys.argv[1]):
    lines = [f"{method} {target} HTTP/1.1", *(f"{k}: {v}" for k, v in headers)]
    body = body.encode("utf-8", "surrogateescape")
    if body:
        lines.append(f"Content-Length: {len(body)}")
    with socket.create_connection(("webserver.ui", 3000), 30) as connection:
        if "Upgrade" not in dict(headers):
            lines.append("Connection: close")
        connection.sendall("\\r\\n".join([*lines, "", ""]).encode("latin-1") + body)
        answer = b""
        while more := connection.recv(65536):
            answer += more
            if answer.startswith(b"HTTP/1.1 101"):
                break
    print(json.dumps([int(answer.split()[1]), answer.decode(errors="replace")[-500:]]))
"""
QUERY = '{"query": "{ version }"}'
HOST, OWN, EVIL = ("Host", "127.0.0.1:3000"), "http://127.0.0.1:3000", "http://evil.example"
KIND = ("Content-Type", "application/json")
POST = [HOST, KIND]
SOCKET = [HOST, *WEBSOCKET.items()]
RUN = "00000000-0000-4000-8000-000000000000"
REPORT = "/report_asset_materialization/reported"
FORM = ("Content-Type", "application/x-www-form-urlencoded")
UTF8 = ("Content-Type", "application/json; charset=utf-8")
# Name: status, method, target, headers, body.
REQUESTS = {
    "JSON": (200, "POST", "/graphql", POST, QUERY),
    "JSON, as the UI sends it": (
        200, "POST", "/graphql?op=Version", [HOST, UTF8, ("Origin", OWN)], QUERY),
    "variables and a name": (
        200, "POST", "/graphql", POST,
        '{"query": "query A { version }", "variables": {}, "operationName": "A"}'),
    "a page": (200, "GET", "/runs", [HOST], ""),
    "a page whose path ends in a slash": (200, "GET", "/runs/", [HOST], ""),
    "a WebSocket": (101, "GET", "/graphql", SOCKET, ""),
    "a WebSocket of the UI": (101, "GET", "/graphql", [*SOCKET, ("Origin", OWN)], ""),
    "a WebSocket of another origin": (403, "GET", "/graphql", [*SOCKET, ("Origin", EVIL)], ""),
    "a WebSocket behind a line feed": (403, "GET", "/graphql%0A", SOCKET, ""),
    "GET": (405, "GET", "/graphql?query={version}", [HOST], ""),
    "GraphiQL": (405, "GET", "/graphql", [HOST, ("Accept", "text/html")], ""),
    "GET behind a line feed": (400, "GET", "/graphql%0A?query={version}", [HOST], ""),
    "a query in the URL": (400, "POST", "/graphql?query={version}", POST, QUERY),
    "a query in the URL and no body": (400, "POST", "/graphql?query={version}", POST, ""),
    "a form": (415, "POST", "/graphql", [HOST, FORM], "query={version}"),
    "plain text": (415, "POST", "/graphql", [HOST, ("Content-Type", "text/plain")], QUERY),
    "plain text that mentions JSON": (
        415, "POST", "/graphql", [HOST, ("Content-Type", "text/plain; application/json")], QUERY),
    "something that begins like JSON": (
        415, "POST", "/graphql", [HOST, ("Content-Type", "application/jsonp")], QUERY),
    "GraphQL": (
        415, "POST", "/graphql", [HOST, ("Content-Type", "application/graphql")], "{version}"),
    "no content type": (415, "POST", "/graphql", [HOST], QUERY),
    "two content types": (415, "POST", "/graphql", [*POST, ("Content-Type", "text/plain")], QUERY),
    "no body": (400, "POST", "/graphql", POST, ""),
    "half a body": (400, "POST", "/graphql", POST, QUERY[:10]),
    "a batch": (400, "POST", "/graphql", POST, f"[{QUERY}]"),
    "a string": (400, "POST", "/graphql", POST, '"query"'),
    "no query": (400, "POST", "/graphql", POST, "{}"),
    "a query that is a list": (400, "POST", "/graphql", POST, '{"query": ["{ version }"]}'),
    "variables that are a list": (
        400, "POST", "/graphql", POST, '{"query": "{ version }", "variables": []}'),
    "variables that are a string": (
        400, "POST", "/graphql", POST, '{"query": "{ version }", "variables": "{}"}'),
    "a name that is a number": (
        400, "POST", "/graphql", POST, '{"query": "{ version }", "operationName": 1}'),
    "a NUL character": (
        400, "POST", "/graphql", POST,
        '{"query": "query A($a: ID!) { runOrError(runId: $a) { __typename } }",'
        ' "variables": {"a": "\\u0000"}}'),
    "a lone surrogate": (
        400, "POST", "/graphql", POST,
        '{"query": "query A($a: ID!) { runOrError(runId: $a) { __typename } }",'
        ' "variables": {"a": "\\ud800"}}'),
    "a NUL character in GraphQL's own writing": (
        400, "POST", "/graphql", POST,
        '{"query": "{ runOrError(runId: \\"a\\\\u0000b\\") { __typename } }"}'),
    "variables that nest deep": (
        400, "POST", "/graphql", POST,
        '{"query": "{ version }", "variables": {"a": ' + "[" * 600 + "]" * 600 + "}}"),
    "variables that nest deep, by name": (
        400, "POST", "/graphql", POST,
        '{"query": "{ version }", "variables": ' + '{"a":' * 600 + "1" + "}" * 601),
    "a scheme that is none": (
        403, "POST", "/graphql",
        [*POST, ("Origin", "evil://127.0.0.1:3000"), ("X-Forwarded-Proto", "evil")], QUERY),
    "no UTF-8": (400, "POST", "/graphql", POST, '{"query": "\udcff"}'),
    "brackets without end": (400, "POST", "/graphql", POST, "[" * 100_000),
    "another origin": (403, "POST", "/graphql", [*POST, ("Origin", EVIL)], QUERY),
    "no origin": (403, "POST", "/graphql", [*POST, ("Origin", "null")], QUERY),
    "an empty origin": (403, "POST", "/graphql", [*POST, ("Origin", "")], QUERY),
    "another scheme": (
        403, "POST", "/graphql", [*POST, ("Origin", "https://127.0.0.1:3000")], QUERY),
    "two origins, ours first": (
        403, "POST", "/graphql", [*POST, ("Origin", OWN), ("Origin", EVIL)], QUERY),
    "two origins, ours last": (
        403, "POST", "/graphql", [*POST, ("Origin", EVIL), ("Origin", OWN)], QUERY),
    "another host": (421, "POST", "/graphql", [("Host", "evil.example"), KIND], QUERY),
    "another host that is an origin of its own": (
        421, "POST", "/graphql", [("Host", "evil.example"), KIND, ("Origin", EVIL)], QUERY),
    "a malformed port": (400, "POST", "/graphql", [("Host", "127.0.0.1:evil"), KIND], QUERY),
    "a malformed port that is an origin of its own": (
        400, "POST", "/graphql",
        [("Host", "127.0.0.1:evil"), KIND, ("Origin", "http://127.0.0.1:evil")], QUERY),
    "two hosts": (400, "POST", "/graphql", [HOST, ("Host", "evil.example"), KIND], QUERY),
    "a path with dots": (400, "GET", "/runs/../server_info", [HOST], ""),
    "a path with encoded dots": (400, "GET", "/runs/%2e%2e/server_info", [HOST], ""),
    "a path with two slashes": (400, "GET", "//server_info", [HOST], ""),
    "a path with a backslash": (400, "GET", "/runs%5c..%5cserver_info", [HOST], ""),
    "a path with a NUL character": (400, "GET", "/favicon.png%00", [HOST], ""),
    "a report": (403, "POST", REPORT, POST, "{}"),
    "a report round a corner": (400, "POST", f"/runs/..{REPORT}", POST, "{}"),
    "the debug file of no run": (404, "GET", f"/download_debug/{RUN}", [HOST], ""),
    "the debug file of what is no run": (404, "GET", "/download_debug/x", [HOST], ""),
    "a log that is not there": (404, "GET", f"/logs/{RUN}/compute_logs/x/out", [HOST], ""),
    "neither stdout nor stderr": (404, "GET", f"/logs/{RUN}/compute_logs/x/cfg", [HOST], ""),
    "no log at all": (404, "GET", "/logs/out", [HOST], ""),
}  # fmt: skip


@pytest.fixture(scope="module")
def answers(stack):
    image = stack.config["services"]["code_location"]["image"]
    requests = json.dumps([request for _, *request in REQUESTS.values()])
    where = "--rm", f"--network={stack.name}_ui", image
    said = docker("run", *where, "python", "-c", SEND, requests).splitlines()
    return dict(zip(REQUESTS, map(json.loads, said), strict=True))


@pytest.mark.parametrize("request_", REQUESTS)
def test_the_web_server_refuses_unknown_requests_with_a_reason(answers, request_):
    expected, *_ = REQUESTS[request_]
    status, text = answers[request_]
    assert status == expected, text
    if request_.startswith(("JSON", "variables and")):
        assert '"version"' in text
