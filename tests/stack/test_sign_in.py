"""Who may come in, and what happens to those who may not."""

import asyncio
import json
from urllib.parse import quote, urlencode

import aiohttp
import pytest

from control_plane.edge.websocket_relay import SECONDS_BETWEEN_CHECKS
from support.cli import OPERATOR, basic, docker
from support.edge_client import JSON, WEBSOCKET, ask
from support.harness import wait_until

VERSION = b'{"query": "{ version }"}'
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
PAGE = {"Accept": "text/html,application/xhtml+xml", "Sec-Fetch-Mode": "navigate"}


def post_form(stack, user, password, goal="/"):
    form = urlencode({"user": user, "password": password, "next": goal}).encode()
    return ask(stack, "POST", "/sign-in", FORM, form, sign_in=False)


def session(stack):
    """The header of somebody who has signed in on the page."""
    response = post_form(stack, OPERATOR, stack.password)
    assert response.status == 303
    return {"Cookie": response.getheader("Set-Cookie").split(";")[0]}


def may(stack, **headers):
    """The status of the answer to a harmless question, not signed in but for the headers."""
    return ask(stack, "POST", "/graphql", {**JSON, **headers}, VERSION, sign_in=False).status


def test_a_person_who_is_not_signed_in_is_led_to_the_page_and_back(stack):
    response = ask(stack, "GET", "/runs?view=queued", PAGE, sign_in=False)
    assert response.status == 303
    assert response.getheader("Location") == f"/sign-in?next={quote('/runs?view=queued', safe='')}"
    page = ask(stack, "GET", response.getheader("Location"), PAGE, sign_in=False)
    assert 'name="next" value="/runs?view=queued"' in page.text
    back = post_form(stack, OPERATOR, stack.password, "/runs?view=queued")
    assert (back.status, back.getheader("Location")) == (303, "/runs?view=queued")


@pytest.mark.parametrize("path", ["/", "/graphql", "/server_info", "/logs/x/out"])
def test_a_client_that_is_not_signed_in_sees_nothing(stack, path):
    method, body = ("POST", VERSION) if path == "/graphql" else ("GET", b"")
    response = ask(stack, method, path, JSON, body, sign_in=False)
    assert response.status == 401
    assert "make credentials" in response.text
    assert response.getheader("WWW-Authenticate") == "Basic"


def test_a_websocket_needs_signing_in(stack):
    assert ask(stack, "GET", "/graphql", WEBSOCKET, sign_in=False).status == 401
    by_cookie = {**WEBSOCKET, **session(stack)}
    assert ask(stack, "GET", "/graphql", by_cookie, sign_in=False).status == 101


def test_wrong_credentials_are_refused(stack):
    assert may(stack, Authorization=basic(OPERATOR, "guess")) == 401
    assert may(stack, Authorization=basic("root", stack.password)) == 401
    assert may(stack, Authorization=basic("viewer", stack.password)) == 401
    for nonsense in ("%%%", "\xff"):
        assert may(stack, Authorization=f"Basic {nonsense}") == 401
    assert may(stack, Authorization=f"Bearer {stack.password}") == 401
    assert may(stack, Cookie=f"{stack.name}-session=guess") == 401
    response = post_form(stack, OPERATOR, "guess", '/"><script>')
    assert response.status == 401
    assert "Wrong user or password" in response.text
    assert "<script>" not in response.text
    assert response.getheader("Set-Cookie") is None


def test_a_client_cannot_name_its_own_user_and_group(stack):
    """The names under which the sign-in tells the edge who somebody is."""
    claim = {"Remote-User": OPERATOR, "Remote-Groups": "dagster-operators"}
    assert may(stack, **claim) == 401
    viewer = basic("viewer", stack.password_of("viewer"))
    headers = {**JSON, **claim, "Authorization": viewer}
    question = b'{"query": "{ permissions { value } }"}'
    answer = ask(stack, "POST", "/graphql", headers, question, sign_in=False)
    assert not any(
        permission["value"] for permission in json.loads(answer.text)["data"]["permissions"]
    )


def test_the_session_s_cookie_is_kept_from_scripts_and_other_sites(stack):
    cookie = post_form(stack, OPERATOR, stack.password).getheader("Set-Cookie")
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert stack.password not in cookie


def test_signing_out_ends_the_session(stack):
    cookie = session(stack)
    assert may(stack, **cookie) == 200
    assert ask(stack, "POST", "/sign-out", cookie, sign_in=False).status == 303
    assert may(stack, **cookie) == 401


def subscribed(stack, headers):
    """A WebSocket that has subscribed to a run's events, and heard of some."""

    async def subscribe(session):
        url = f"{stack.url}/graphql"
        socket = await session.ws_connect(url, protocols=["graphql-ws"], headers=headers)
        await socket.send_json({"type": "connection_init", "payload": {}})
        query = """subscription { locationStateChangeEvents { event { message } } }"""
        await socket.send_json({"id": "1", "type": "start", "payload": {"query": query}})
        assert (await socket.receive_json(timeout=30))["type"] == "connection_ack"
        return socket

    return subscribe


def closed_by(stack, headers, end):
    """Whether a WebSocket is open before something is done, and closed within seconds after it."""

    async def attempt():
        async with aiohttp.ClientSession() as session:
            socket = await subscribed(stack, headers)(session)
            with pytest.raises(TimeoutError):  # longer than the relay takes to ask again
                await socket.receive(timeout=2 * SECONDS_BETWEEN_CHECKS)
            await asyncio.to_thread(end)
            message = await socket.receive(timeout=10 * SECONDS_BETWEEN_CHECKS)
            return message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)

    return asyncio.run(attempt())


def test_signing_out_closes_the_session_s_websockets_and_no_others(stack):
    cookie, other = session(stack), session(stack)

    def sign_out():
        assert ask(stack, "POST", "/sign-out", cookie, sign_in=False).status == 303

    async def attempt():
        async with aiohttp.ClientSession() as client:
            ending = await subscribed(stack, cookie)(client)
            staying = await subscribed(stack, other)(client)
            with pytest.raises(TimeoutError):
                await ending.receive(timeout=2 * SECONDS_BETWEEN_CHECKS)
            await asyncio.to_thread(sign_out)
            message = await ending.receive(timeout=10 * SECONDS_BETWEEN_CHECKS)
            assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
            with pytest.raises(TimeoutError):
                await staying.receive(timeout=2 * SECONDS_BETWEEN_CHECKS)

    asyncio.run(attempt())
    assert may(stack, **cookie) == 401


def test_a_changed_password_closes_the_websockets_that_were_opened_with_the_old_one(stack):
    credentials = {"Authorization": basic("viewer", stack.password_of("viewer"))}
    renew = "head -c 32 /dev/urandom | base64 >/s/viewer.new && chown 10001:10001 /s/viewer.new"
    image = stack.config["services"]["prepare"]["image"]
    volume = f"--volume={stack.name}_sign-in-credentials:/s"

    def change():
        docker("run", "--rm", "--user=0", volume, image, "sh", "-c",
               f"{renew} && chmod 600 /s/viewer.new && mv /s/viewer.new /s/viewer")  # fmt: skip
        stack.compose("restart", "sign_in")

    assert closed_by(stack, credentials, change)
    wait_until(lambda: may(stack, **credentials) == 401, "the new password")
    new = {"Authorization": basic("viewer", stack.password_of("viewer"))}
    assert may(stack, **new) == 200


def test_a_session_outlives_a_restart_of_the_sign_in(stack):
    cookie = session(stack)
    stack.compose("restart", "sign_in")
    wait_until(lambda: may(stack, **cookie) == 200, "the sign-in")


MULTIPART = "multipart/form-data; boundary=b"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (MULTIPART, b""),
        (MULTIPART, b"--b\r\n"),
        (MULTIPART, b"--b\r\nContent-Disposition: form-data\r\n\r\n"),
        (MULTIPART, b"\x00" * 100),
        ("multipart/form-data", b"--b--"),
        ("application/json", b"{}"),
        (None, b"user=dagster"),
        ("application/x-www-form-urlencoded; charset=nonsense", b"user=dagster"),
        (FORM["Content-Type"], b"\xff\xfe=%ff"),
        (FORM["Content-Type"], b"&" * 1000 + b"a=1&" * 500),
    ],
)
def test_a_malformed_sign_in_form_gets_status_400(stack, content_type, body):
    headers = {"Content-Type": content_type} if content_type else {}
    response = ask(stack, "POST", "/sign-in", headers, body, sign_in=False)
    assert (response.status, response.text) == (400, "not the form of the sign-in page\n")


def test_a_form_that_is_too_large_is_refused(stack):
    assert ask(stack, "POST", "/sign-in", FORM, b"user=" + b"x" * 5000).status == 413


def test_the_printed_address_has_a_host_name_of_its_own(stack):
    """Cookies of 127.0.0.1 go to every other server on this machine that somebody visits."""
    host = f"{stack.name}.localhost:{stack.address[1]}"
    assert stack.ui_url == f"http://{host}"
    assert stack.ui_url in stack.verb("status").stdout
    assert stack.ui_url in docker("logs", stack.container_of("sign_in"))
    assert stack.ui_url not in ask(stack, "GET", "/sign-in", host=host).text
    for shared in ("127.0.0.1", "localhost", "[::1]"):
        page = ask(stack, "GET", "/sign-in", host=f"{shared}:{stack.address[1]}").text
        assert f'<a href="{stack.ui_url}/sign-in">' in page


@pytest.mark.parametrize(
    "goal",
    [
        "//evil.example",
        "/\\evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        "\t//evil.example",
        "/\x00/evil.example",
        "/\\\t/evil.example",
        "/x\r\nSet-Cookie: a=b",
        "/\u2215evil.example",
        "https://evil.example",
        "javascript:alert(1)",
        "evil.example",
        "",
    ],
)
def test_signing_in_does_not_redirect_to_another_host(stack, goal):
    assert post_form(stack, OPERATOR, stack.password, goal).getheader("Location") == "/"


def test_a_page_of_another_origin_cannot_sign_a_user_in_or_out(stack):
    for path in ("/sign-in", "/sign-out"):
        response = ask(stack, "POST", path, {**FORM, "Origin": "http://evil.example"})
        assert response.status == 403


GUESS = """
import base64, sys, urllib.request, urllib.error
host, right, wrongs = sys.argv[1], sys.argv[2], int(sys.argv[3])
def ask(password, n):
    request = urllib.request.Request(f"http://{host}:8080/server_info", headers={
        "Host": "localhost", "X-Forwarded-For": f"198.51.100.{n}",
        "Authorization": "Basic " + base64.b64encode(f"dagster:{password}".encode()).decode()})
    try:
        return urllib.request.urlopen(request).status
    except urllib.error.HTTPError as error:
        if error.code == 429:
            assert int(error.headers["Retry-After"]) > 0
        return error.code
print([ask(f"guess {n}", n) for n in range(wrongs)] + [ask(right, 0)])
"""


def test_only_the_address_that_guesses_passwords_has_to_wait(stack):
    """Ten wrong passwords; then not even the right one is looked at, whatever it says it is."""
    cookie = session(stack)
    edge = stack.inspect(stack.container_of("edge"))["NetworkSettings"]["Networks"]
    address = edge[f"{stack.name}_edge"]["IPAddress"]
    image = stack.config["services"]["code_location"]["image"]
    network = f"--network={stack.name}_edge"
    guess = "python", "-c", GUESS, address, stack.password
    attacker = docker("run", "--detach", network, image, "sleep", "120").strip()
    try:
        assert json.loads(docker("exec", attacker, *guess, "30")) == [401] * 10 + [429] * 21
        neighbour = docker("run", "--rm", network, image, *guess, "1")
        assert json.loads(neighbour) == [401, 200]
    finally:
        docker("rm", "--force", attacker)
    assert may(stack, **cookie) == 200
    assert may(stack, Authorization=basic(OPERATOR, stack.password)) == 200
    assert post_form(stack, OPERATOR, stack.password).status == 303
    failures = docker("logs", stack.container_of("sign_in"))
    assert '"event": "wrong password"' in failures
