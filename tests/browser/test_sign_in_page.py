"""Signing in, in a browser; and what pages of other origins cannot do to somebody signed in."""

import http.server
import threading
from contextlib import contextmanager

import pytest
from playwright.sync_api import expect

# What a page can do to another origin without asking first; that the answer is kept from it is no
# comfort. Each gets the UI's URL, and the mutation as JSON and as a query string.
POST = "await fetch(url + '/graphql', {method: 'POST', credentials: 'include', body: json, "
ATTACKS = {
    "a picture whose address is a mutation": """await new Promise(done => {
        const image = new Image();
        image.onerror = image.onload = done;
        image.src = url + '/graphql?' + query; })""",
    "plain text": POST + "mode: 'no-cors', headers: {'Content-Type': 'text/plain'}})",
    "plain text that mentions JSON": POST
    + "mode: 'no-cors', headers: {'Content-Type': 'text/plain; application/json'}})",
    "JSON": POST + "headers: {'Content-Type': 'application/json'}})",
    "a form in the background": """await fetch(url + '/graphql?' + query, {
        method: 'POST', mode: 'no-cors', credentials: 'include', body: new URLSearchParams()})""",
    "a report": """await fetch(url + '/report_asset_materialization/attacked?metadata={}', {
        method: 'POST', mode: 'no-cors', credentials: 'include'})""",
}
OPENS = """([url]) => new Promise(done => {
    const socket = new WebSocket(url.replace('http', 'ws') + '/graphql', 'graphql-ws');
    socket.onerror = () => done(false);
    socket.onopen = () => { socket.close(); done(true); }; })"""


def carry_out(page, attack, stack, launch):
    as_json, in_url, _ = launch
    # What a page is not shown it sees as an error.
    script = f"async ([url, json, query]) => {{ try {{ {ATTACKS[attack]} }} catch {{}} }}"
    page.evaluate(script, [stack.url, as_json, in_url])


@contextmanager
def other_origin(content="<h1>Kittens</h1>"):
    """A page of another origin: of another port only, so that cookies are sent along."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # the library's name
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_the_printed_address_leads_to_the_ui_and_says_where_the_password_is_found(visit, stack):
    page = visit()
    page.goto(stack.ui_url)
    expect(page.get_by_text("make credentials")).to_be_visible()
    command = page.locator("code", has_text="docker compose exec").text_content().split()[2:]
    password = stack.compose(command[0], "--no-TTY", *command[1:]).stdout.strip()
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("link", name="Runs").first).to_be_visible()
    assert page.url.startswith(stack.ui_url)
    # And out again, by the address that the page names.
    page.goto(f"{stack.ui_url}/sign-out")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Password")).to_be_visible()


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_page_of_another_origin_can_launch_nothing(page, stack, launch, attack):
    with other_origin() as elsewhere:
        page.goto(elsewhere)
        carry_out(page, attack, stack, launch)
    assert not stack.runs_marked(launch[-1])
    query = """{ assetOrError(assetKey: {path: ["attacked"]}) { ... on Asset {
        assetMaterializations { timestamp } } } }"""
    assert not stack.graphql(query)["assetOrError"].get("assetMaterializations")


def test_the_ui_s_own_page_can_launch_a_run(page, stack, launch):
    """Else the test above would show nothing."""
    carry_out(page, "JSON", stack, launch)
    assert len(stack.runs_marked(launch[-1])) == 1


def test_only_the_ui_s_own_page_can_open_the_websocket(page, stack):
    assert page.evaluate(OPENS, [stack.url]) is True
    with other_origin() as elsewhere:
        page.goto(elsewhere)
        assert page.evaluate(OPENS, [stack.url]) is False


def test_a_form_of_another_origin_can_launch_nothing(page, stack, launch):
    _, in_url, mark = launch
    with other_origin() as elsewhere:
        page.goto(elsewhere)
        page.evaluate(
            "([action]) => { const form = document.createElement('form');"
            " form.method = 'post'; form.action = action;"
            " document.body.append(form); form.submit(); }",
            [f"{stack.url}/graphql?{in_url}"],
        )
        expect(page.locator("body")).to_contain_text("refused: from a page of another origin")
    assert not stack.runs_marked(mark)


def test_no_other_page_can_frame_the_ui(page, stack):
    with other_origin(f'<iframe src="{stack.url}/runs"></iframe>') as elsewhere:
        page.goto(elsewhere)
        frame = page.frame_locator("iframe")
        expect(frame.get_by_role("link", name="Runs")).to_have_count(0)
        expect(frame.locator("body")).not_to_contain_text("Overview")


def test_a_link_from_another_page_leads_somebody_signed_in_to_its_run(page, stack):
    run = stack.run("process_numbers")
    with other_origin(f'<a href="{stack.url}/runs/{run}">the run</a>') as elsewhere:
        page.goto(elsewhere)
        page.get_by_role("link", name="the run").click()
        expect(page.get_by_text("RUN_SUCCESS").first).to_be_visible()


def test_signing_in_leads_to_the_requested_page(visit, stack):
    page = visit()
    page.goto("/runs")
    page.get_by_label("Password").fill("a guess")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_have_text("Wrong user or password")
    page.get_by_label("Password").fill(stack.password)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/runs")
    page.goto("/sign-out")
    page.get_by_role("button", name="Sign out").click()
    page.goto("/runs")
    expect(page.get_by_label("Password")).to_be_visible()


def test_a_viewer_sees_runs_and_cannot_launch_one(visit, stack, launch):
    run = stack.run("process_numbers")
    page = visit("viewer")
    page.goto(f"/runs/{run}")
    expect(page.get_by_text("RUN_SUCCESS").first).to_be_visible()
    page.goto("/locations/code_location/jobs/process_numbers")
    expect(page.get_by_role("tab", name="Runs")).to_be_enabled()
    expect(page.get_by_role("tab", name="Launchpad")).to_be_disabled()
    # Past the buttons, with the viewer's own session.
    carry_out(page, "JSON", stack, launch)
    assert not stack.runs_marked(launch[-1])
