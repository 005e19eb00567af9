"""The edge lets through what the web UI asks for: the list in its Caddyfile is complete."""

import re
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Error, expect

# Every kind of page that the UI has, by its routes. {run} is a run that has ended.
PAGES = [
    "/",
    "/overview",
    "/overview/activity/timeline",
    "/overview/activity/assets",
    "/overview/jobs",
    "/overview/schedules",
    "/overview/sensors",
    "/overview/resources",
    "/overview/backfills",
    "/runs",
    "/runs?view=queued&q[0]=status%3AQUEUED",
    "/runs/{run}",
    "/runs/{run}?logFileKey=&selection=%2B%22speak%22&logs=level%3A%22warning%22",
    "/runs/backfills",
    "/runs/b/nosuch",
    "/jobs",
    "/assets",
    "/assets/summed_two_sums?view=lineage",
    "/assets/summed_two_sums?view=events&time=1",
    "/assets/a%20name/with%20%C3%BC%3F%3A%5B1%5D",
    "/asset-groups",
    "/automation",
    "/deployment",
    "/deployment/locations",
    "/deployment/daemons",
    "/deployment/concurrency",
    "/deployment/config",
    "/locations",
    "/locations/code_location",
    "/locations/code_location/assets",
    "/locations/code_location/definitions",
    "/locations/code_location/docs",
    "/locations/__repository__@code_location/asset-groups/numbers/lineage",
    "/locations/code_location/asset-groups/numbers/list",
    "/locations/code_location/jobs/process_numbers",
    "/locations/code_location/jobs/process_numbers/playground",
    "/locations/code_location/jobs/process_numbers/playground/setup?config=ops%3A%0A%20%20a%3A%201",
    "/locations/code_location/jobs/process_numbers/playground/setup-from-run/{run}",
    "/locations/code_location/jobs/process_numbers/runs",
    "/locations/code_location/jobs/process_numbers~generate_numbers",
    "/locations/code_location/jobs/days_job/partitions",
    "/locations/code_location/pipeline_or_job/process_numbers",
    "/locations/code_location/ops/generate_numbers",
    "/locations/code_location/graphs",
    "/locations/code_location/resources",
    "/locations/code_location/schedules/process_numbers_every_minute",
    "/locations/code_location/sensors/inbox_files",
    "/guess/process_numbers",
    "/snapshots/process_numbers@0",
    "/playground",
    "/health",
    "/concurrency",
    "/config",
]
SOME = [
    "/overview/activity/timeline",
    "/runs",
    "/runs/{run}",
    "/assets/summed_two_sums?view=events&time=1",
    "/automation",
    "/deployment/daemons",
    "/locations/code_location/asset-groups/numbers/list",
    "/locations/code_location/jobs/process_numbers/playground",
]
REFUSED = {400, 403, 404, 405, 413, 415, 421, 431, 500, 502}


@pytest.fixture
def recorded(page):
    """Every answer of the stack to the page: method, request target and status."""
    answers = []
    page.on(
        "response",
        lambda one: answers.append((one.request.method, one.url, one.status)),
    )
    return answers


def refused(recorded, url):
    return [answer for answer in recorded if answer[1].startswith(url) and answer[2] in REFUSED]


def kinds(recorded):
    return {
        (method, re.sub("/.*", "", urlsplit(url).path[1:])) for method, url, _ in recorded
    }  # method and the first segment


def load(page, path):
    """Opens a page with its navigation. It asks for its content before it is idle.

    Again if Chromium has given up a request (conftest.py): all pages in a row would rarely load.
    """
    given_up = []

    def note(request):
        given_up.append(str(request.failure))

    page.on("requestfailed", note)
    for last in (False, False, False, True):
        given_up.clear()
        try:
            page.goto(path)
            expect(page.get_by_role("link", name="Runs").first).to_be_visible(timeout=20_000)
            page.wait_for_load_state("load")
        except (Error, AssertionError):
            if last or not any("NETWORK_CHANGED" in one for one in given_up):
                raise
        else:
            break
    page.remove_listener("requestfailed", note)


@pytest.mark.parametrize(
    "pages", [SOME, pytest.param(PAGES, marks=pytest.mark.whole)], ids=["some", "all"]
)
def test_no_page_of_the_ui_asks_for_what_the_edge_refuses(page, stack, recorded, pages):
    run = stack.run("talk")
    sockets = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    for path in pages:
        load(page, path.format(run=run))
    page.goto(f"/runs/{run}")
    expect(page.get_by_text("RUN_SUCCESS").first).to_be_visible()
    assert not refused(recorded, page.url.split("/runs")[0])
    assert sockets
    # It was recorded, and is all that the list is about.
    assert {("POST", "graphql"), ("GET", "_next"), ("GET", "favicon.svg")} <= kinds(recorded)
    assert not [url for method, url, _ in recorded if method not in ("GET", "POST")]


def test_a_log_and_the_debug_file_of_a_run_can_be_downloaded(page, stack):
    run = stack.run("talk")
    page.goto(f"/runs/{run}")
    page.get_by_role("button", name="stdout").click()
    page.get_by_placeholder("Select a step").click()
    page.get_by_role("menuitem", name="speak").click()
    expect(page.get_by_text("said on stdout")).to_be_visible()
    with page.expect_download() as downloading:
        page.locator('a[href*="/logs/"]').first.click()
    assert "said on stdout" in downloading.value.path().read_text()
    debug = page.request.get(f"/download_debug/{run}")
    assert (debug.status, debug.headers["content-type"]) == (200, "application/gzip")
