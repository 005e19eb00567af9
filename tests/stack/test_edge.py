"""What the edge lets through: the requests that the web UI makes, and no others.

All requests here are signed in. Each attack asks for a run, so that what got through can be seen.
"""

import json

import pytest

from support.edge_client import JSON, WEBSOCKET, ask

# The origin of the stack that a test asks is put in.
OURS, EVIL = ("Origin", "{origin}"), ("Origin", "http://evil.example")
# Name: status, method, path, headers; {url} is the mutation as a query string. The body is the
# mutation as JSON, where the path does not have it.
ATTACKS = {
    "a link with a mutation": (400, "GET", "/graphql?{url}", {}),
    "a link with a mutation, spelt otherwise": (400, "GET", "/%67raphql?{url}", {}),
    "a link with a mutation, in other letter case": (404, "GET", "/GraphQL?{url}", {}),
    "a link with a mutation, round a corner": (400, "GET", "/runs/../graphql?{url}", {}),
    "a link with a mutation, with two slashes": (400, "GET", "//graphql?{url}", {}),
    "a link with a mutation, behind a line feed": (400, "GET", "/graphql%0A?{url}", {}),
    "a link with a mutation, behind a slash": (404, "GET", "/graphql/?{url}", {}),
    "a mutation as JSON, behind a line feed": (400, "POST", "/graphql%0A", JSON),
    "GraphiQL": (405, "GET", "/graphql", {"Accept": "text/html"}),
    "GraphiQL, behind a line feed": (400, "GET", "/graphql%0A", {"Accept": "text/html"}),
    "a mutation behind the operation's name": (400, "GET", "/graphql?op=Launch&{url}", {}),
    "a form with the mutation in the URL": (
        400,
        "POST",
        "/graphql?{url}",
        {"Content-Type": "application/x-www-form-urlencoded"},
    ),
    "plain text": (415, "POST", "/graphql", {"Content-Type": "text/plain"}),
    "plain text that mentions JSON": (
        415,
        "POST",
        "/graphql",
        {"Content-Type": "text/plain; application/json"},
    ),
    "something that begins like JSON": (
        415,
        "POST",
        "/graphql",
        {"Content-Type": "application/jsonp"},
    ),
    "no content type": (415, "POST", "/graphql", {}),
    "another method": (405, "PUT", "/graphql", JSON),
    "GET with a body": (405, "GET", "/graphql", JSON),
    "a preflight": (405, "OPTIONS", "/graphql", {"Access-Control-Request-Method": "POST"}),
    "another origin": (403, "POST", "/graphql", {**JSON, "Origin": "http://evil.example"}),
    "an origin that begins like ours": (
        403,
        "POST",
        "/graphql",
        {**JSON, "Origin": "http://127.0.0.1.evil.example"},
    ),
    "the same host's other port": (403, "POST", "/graphql", {**JSON, "Origin": "http://127.0.0.1"}),
    "a page without an origin": (403, "POST", "/graphql", {**JSON, "Origin": "null"}),
    "embedded by another site": (403, "GET", "/", {"Sec-Fetch-Site": "cross-site"}),
    "embedded by another port": (403, "GET", "/logs/x/out", {"Sec-Fetch-Site": "same-site"}),
    "a link to GraphQL from another site": (
        403,
        "GET",
        "/graphql",
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    ),
    "a form from another site": (
        403,
        "POST",
        "/graphql",
        {**JSON, "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    ),
    "a form from another site, elsewhere": (
        403,
        "POST",
        "/sign-out",
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    ),
    "a WebSocket of another origin": (
        403,
        "GET",
        "/graphql",
        {**WEBSOCKET, "Origin": "http://evil.example"},
    ),
    "a WebSocket with a mutation in the URL": (400, "GET", "/graphql?{url}", WEBSOCKET),
    "a POST that says it is a WebSocket": (415, "POST", "/graphql", WEBSOCKET),
    "a WebSocket that is another protocol": (
        405,
        "GET",
        "/graphql",
        {**WEBSOCKET, "Upgrade": "h2c"},
    ),
    "a WebSocket elsewhere": (400, "GET", "/server_info", WEBSOCKET),
    "a report": (403, "POST", "/report_asset_materialization/numbers", JSON),
    "an encoded C1 control character": (400, "GET", "/assets/%C2%9B31m", {}),
    "an encoded character that turns the direction of writing": (
        400,
        "GET",
        "/runs/%E2%80%AE",
        {},
    ),
    "a report round a corner": (400, "POST", "/runs/../report_asset_check/numbers", JSON),
    "a report round an encoded corner": (400, "POST", "/runs/%2e%2e/report_asset_check/x", JSON),
    "two origins, ours first": (403, "POST", "/graphql", [*JSON.items(), OURS, EVIL]),
    "two origins, ours last": (403, "POST", "/graphql", [*JSON.items(), EVIL, OURS]),
    "two content types": (415, "POST", "/graphql", [*JSON.items(), ("Content-Type", "text/plain")]),
    "a header of the edge's named as one for this connection": (
        400,
        "POST",
        "/graphql",
        {**JSON, "Connection": "Remote-Groups"},
    ),
    "a report, spelt otherwise": (400, "POST", "/report%5Fasset_check/numbers", JSON),
    "a report in other letter case": (404, "POST", "/Report_Asset_observation/numbers", JSON),
}


def answers(stack, *request, **options):
    """The answers to a request with and without signing in; the edge refuses it before that."""
    return [ask(stack, *request, **options, sign_in=signed_in) for signed_in in (True, False)]


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused_and_launches_nothing(stack, launch, attack):
    status, method, path, headers = ATTACKS[attack]
    body, in_url, mark = launch
    body = b"" if "{url}" in path or method == "OPTIONS" else body.encode()
    for response in answers(stack, method, path.format(url=in_url), headers, body):
        assert (response.status, response.text.count("\n")) == (status, 0), response.text
        assert response.text, "a refusal says why"
        assert response.getheader("Access-Control-Allow-Origin") is None
    assert not stack.runs_marked(mark)


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "169.254.169.254", "workflows.lan", ""]
)
@pytest.mark.parametrize("path", ["/", "/graphql", "/sign-in"])
def test_a_host_that_is_not_ours_is_refused(stack, host, path):
    """DNS rebinding: another page's name that was pointed at this address."""
    response = ask(stack, "GET", path, host=host or "x")
    assert response.status == 421
    assert stack.ui_url in response.text
    assert "ALLOWED_HOSTS" in response.text


@pytest.mark.parametrize("port", [":30a0", ":", ":3000@evil.example", ":3000 evil", ":0x50", "\\"])
def test_a_malformed_host_is_refused_though_its_origin_is_the_same(stack, launch, port):
    body, _, mark = launch
    host = f"127.0.0.1{port}"
    headers = {**JSON, "Origin": f"http://{host}"}
    for response in answers(stack, "POST", "/graphql", headers, body.encode(), host=host):
        assert response.status == 400
    assert not stack.runs_marked(mark)


@pytest.mark.parametrize("name", ["{stack}.localhost", "localhost", "127.0.0.1", "[::1]"])
def test_the_ui_s_own_requests_go_through(stack, name):
    host = f"{name.format(stack=stack.name)}:{stack.address[1]}"
    ours = {"Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
    body = b'{"query": "{ version }"}'
    for content_type in ("application/json", "application/json; charset=utf-8"):
        headers = {**ours, "Content-Type": content_type}
        response = ask(stack, "POST", "/graphql?op=Version", headers, body, host=host)
        assert json.loads(response.text)["data"]["version"]
    assert ask(stack, "GET", "/graphql", {**ours, **WEBSOCKET}, host=host).status == 101


def test_a_link_from_another_site_leads_to_its_page(stack):
    """Else nobody could follow the link in a notification."""
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert ask(stack, "GET", "/runs", link).status == 200


@pytest.mark.parametrize("path", ["/", "/sign-in", "/report_asset_check/x", "/graphql"])
def test_every_answer_forbids_framing_embedding_and_guessing(stack, path):
    response = ask(stack, "GET", path)
    policies = response.headers.get_all("Content-Security-Policy")
    assert "frame-ancestors 'none'" in policies
    assert response.getheader("X-Frame-Options") == "DENY"
    assert response.getheader("X-Content-Type-Options") == "nosniff"
    assert response.getheader("Cross-Origin-Resource-Policy") == "same-origin"
    assert response.getheader("Server") is None


def test_the_edge_refuses_large_bodies_and_headers(stack):
    assert ask(stack, "POST", "/graphql", JSON, b" " * 11_000_000).status == 413
    assert ask(stack, "GET", "/", {"X-Long": "x" * 40_000}).status == 431
