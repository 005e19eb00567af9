"""What the edge does when it is told to: reports, single sign-on, TLS."""

import http.client
import json
import socket
import ssl
import subprocess
import time
from contextlib import contextmanager

import pytest

from support.cli import OPERATOR, basic, docker
from support.edge_client import JSON, ask
from support.harness import DOMAIN, wait_until

VERSION = b'{"query": "{ version }"}'
REPORT = "/report_asset_materialization/reported"
MAY = b'{"query": "{ permissions { value } }"}'


@contextmanager
def container(stack, alias, *command, network="edge", image="code_location", options=()):
    """A container beside the edge, known to it by a name."""
    image = stack.config["services"][image]["image"]
    where = f"--network={stack.name}_{network}", f"--network-alias={alias}"
    started = docker("run", "--detach", *where, *options, image, *command).strip()
    try:
        yield started
    finally:
        docker("rm", "--force", started)


@pytest.fixture(scope="module")
def switched_on(stack):
    """What is refused by default (test_edge.py): reports, and names that are not the stack's."""
    # With names and an address that are allowed anyway: they are twice in the list.
    hosts = "other.lan workflows.lan localhost Other.lan"
    with stack.edge_with(ALLOW_ASSET_REPORTS="1", ALLOWED_HOSTS=hosts, BIND_ADDRESS="127.0.0.1"):
        yield


@pytest.mark.whole
@pytest.mark.usefixtures("switched_on")
def test_asset_reports_are_accepted_when_they_are_switched_on(stack):
    body = json.dumps({"metadata": {"by": "http"}}).encode()
    assert ask(stack, "POST", REPORT, {"Content-Type": "text/plain"}, body).status == 415
    assert ask(stack, "POST", REPORT, JSON, body, sign_in=False).status == 401
    assert ask(stack, "POST", REPORT, JSON, body).status == 200


@pytest.mark.whole
@pytest.mark.usefixtures("switched_on")
def test_a_viewer_cannot_report_an_asset(stack):
    viewer = {"Authorization": basic("viewer", stack.password_of("viewer"))}
    answer = ask(stack, "POST", REPORT, {**JSON, **viewer}, b"{}", sign_in=False)
    # The read-only web server's own answer: the edge lets reports through.
    assert (answer.status, "Not authorized to report" in answer.text) == (401, True)


@pytest.mark.whole
@pytest.mark.usefixtures("switched_on")
def test_an_operator_can_allow_another_host_name(stack):
    assert ask(stack, "GET", "/", host="workflows.lan").status == 200
    assert ask(stack, "GET", "/", host="localhost").status == 200
    assert ask(stack, "GET", "/", host="evil.example").status == 421


# --- single sign-on ---

# An identity provider as far as the edge sees one: who has no cookie of it is sent to its page.
IDENTITY = """
import http.server
class Identity(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path != "/api/authz/forward-auth":
            self.send_response(404)
        elif "sso=" not in self.headers.get("Cookie", ""):
            self.send_response(302)
            self.send_header("Location", "https://login.example/?then=" +
                             self.headers["X-Forwarded-Uri"])
        else:
            self.send_response(200)
            self.send_header("Remote-User", "kim")
            groups = self.headers["Cookie"].partition("sso=")[2]
            if groups != "silent":
                self.send_header("Remote-Groups", groups)
        self.send_header("Content-Length", "0"); self.end_headers()
http.server.ThreadingHTTPServer(("", 9091), Identity).serve_forever()
"""


@pytest.fixture(scope="module")
def single_sign_on(stack):
    with (
        container(stack, "identity", "python", "-c", IDENTITY),
        stack.edge_with(FORWARD_AUTH="identity:9091", FORWARD_AUTH_URI="/api/authz/forward-auth"),
    ):
        yield


def what_is_shown(stack, headers):
    """The UI that may change things, the one that may not, or the status of a refusal."""
    response = ask(stack, "POST", "/graphql", {**JSON, **headers}, MAY, sign_in=False)
    if response.status != 200:
        return response.status
    may = [permission["value"] for permission in json.loads(response.text)["data"]["permissions"]]
    return "whole UI" if any(may) else "read-only UI"


@pytest.mark.usefixtures("single_sign_on")
@pytest.mark.parametrize(
    ("groups", "shown"),
    [
        ("staff,dagster-operators", "whole UI"),
        ("dagster-viewers", "read-only UI"),
        ("staff", 403),
        ("not-dagster-operators", 403),
        # The provider says nothing of groups, and the client does.
        ("silent", 403),
    ],
)
def test_the_identity_provider_s_groups_say_what_somebody_may(stack, groups, shown):
    headers = {"Cookie": f"sso={groups}", "Remote-Groups": "dagster-operators"}
    assert what_is_shown(stack, headers) == shown


@pytest.mark.usefixtures("single_sign_on")
def test_a_browser_that_is_not_signed_in_is_sent_to_the_identity_provider(stack):
    response = ask(stack, "GET", "/runs", {"Accept": "text/html"}, sign_in=False)
    assert response.status == 302
    assert response.getheader("Location") == "https://login.example/?then=/runs"


@pytest.mark.usefixtures("single_sign_on")
def test_scripts_can_still_use_the_generated_credentials(stack):
    assert stack.graphql("{ version }")["version"]
    wrong = {**JSON, "Authorization": basic(OPERATOR, "guess"), "Cookie": "sso=dagster-operators"}
    assert ask(stack, "POST", "/graphql", wrong, VERSION, sign_in=False).status == 401


# --- TLS ---


def over_tls(stack, authority, host=DOMAIN):
    """The answer to a question over TLS and the certificate with it; None while there is none."""
    context = ssl.create_default_context(cadata=authority)
    plain = socket.create_connection(stack.address, 30)
    try:
        tls = context.wrap_socket(plain, server_hostname=host)
    except ssl.SSLError:
        return None
    with tls:
        connection = http.client.HTTPConnection(host, stack.address[1])
        connection.sock = tls
        headers = {**JSON, "Authorization": basic(OPERATOR, stack.password)}
        connection.request("POST", "/graphql", VERSION, headers)
        response = connection.getresponse()
        response.text = response.read().decode()
        return response, tls.getpeercert()


@pytest.fixture(scope="module")
def domain(stack, own_certificate):
    """The stack's public name is DOMAIN, for which it has a certificate of its own."""
    assert stack.password
    certificate, settings = own_certificate
    with stack.edge_with(DOMAIN=DOMAIN, **settings):
        yield certificate


@pytest.mark.whole
def test_with_a_domain_and_a_certificate_of_ones_own_it_speaks_https_only(stack, domain):
    response, _ = over_tls(stack, domain)
    assert json.loads(response.text)["data"]["version"]
    assert "max-age" in response.getheader("Strict-Transport-Security")
    # In clear nobody is let in, and nothing is said.
    assert ask(stack, "GET", "/").status == 400


@pytest.mark.whole
def test_a_certificate_close_to_its_end_or_that_nobody_trusts_is_named(stack, domain, tmp_path):
    trusted = tmp_path / "trusted.pem"
    trusted.write_text(domain)
    for settings, said in (
        ({"SSL_CERT_FILE": str(trusted)}, "certificate: it ends in 2 days"),
        ({}, "certificate verify failed"),
    ):
        assert said in stack.verb("doctor", **settings).stdout


# Caddy is an authority as well: its own, with Let's Encrypt's protocol.
AUTHORITY = """
{
	admin off
	persist_config off
	skip_install_trust
}
https://acme.internal:8443 {
	tls internal
	acme_server {
		challenges tls-alpn-01
		lifetime 1h
	}
}
"""
# The authority comes back to the domain's port 443, as it would from the world.
FORWARD = """
import asyncio
async def pipe(reader, writer):
    while data := await reader.read(65536):
        writer.write(data); await writer.drain()
    writer.close()
async def accept(reader, writer):
    there = await asyncio.open_connection("edge", 8080)
    await asyncio.gather(pipe(reader, there[1]), pipe(there[0], writer), return_exceptions=True)
async def main():
    async with await asyncio.start_server(accept, "", 443) as server:
        await server.serve_forever()
asyncio.run(main())
"""


def root_of(authority):
    """The authority's own certificate, once it has made it."""
    where = "/tmp/caddy/pki/authorities/local/root.crt"  # noqa: S108 # the container's own
    read = ["docker", "exec", authority, "cat", where]
    return subprocess.run(read, capture_output=True, text=True, check=False).stdout


@pytest.mark.whole
@pytest.mark.usefixtures("domain")
def test_with_a_domain_it_gets_itself_a_certificate(stack, tmp_path):
    start = f"cat >/tmp/Caddyfile <<'END'\n{AUTHORITY}\nEND\nexec caddy run --config /tmp/Caddyfile"
    with (
        container(
            stack, "acme.internal", "sh", "-c", start, image="edge",
            options=("--env=XDG_DATA_HOME=/tmp",),
        ) as authority,
        container(stack, DOMAIN, "python", "-c", FORWARD),
    ):  # fmt: skip
        root = wait_until(lambda: root_of(authority), "the authority")
        bundle = tmp_path / "authorities.pem"
        bundle.write_text(root)
        directory = "https://acme.internal:8443/acme/local/directory"
        none = {"TLS_CERTIFICATE": "", "TLS_KEY": ""}
        with stack.edge_with(ACME_CA=directory, CA_BUNDLE=str(bundle), **none):
            response, certificate = wait_until(lambda: over_tls(stack, root), "a certificate")
            assert json.loads(response.text)["data"]["version"]
            assert ("DNS", DOMAIN) in certificate["subjectAltName"]
            assert ssl.cert_time_to_seconds(certificate["notAfter"]) < time.time() + 3700
