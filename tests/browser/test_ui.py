"""The web UI in a browser: what a person sees and clicks."""

import re
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import expect

from support.harness import wait_until

OPS = [
    "generate_numbers",
    "filter_even_numbers",
    "filter_odd_numbers",
    "sum_even_numbers",
    "sum_odd_numbers",
    "sum_two_sums",
]
ASSETS = [
    "generated_numbers",
    "filtered_even_numbers",
    "filtered_odd_numbers",
    "summed_even_numbers",
    "summed_odd_numbers",
    "summed_two_sums",
]
SENSORS = ["default_automation_condition_sensor", "failed_runs", "inbox_files", "summed_numbers"]


def click_through(page, *links):
    """From the first page, one link after the other."""
    page.goto("/")
    for link in links:
        # The name of a link is its icon's, then its text, sometimes twice.
        page.get_by_role("link", name=re.compile(rf"\b{link}\b")).first.click()


def see(page, text):
    expect(page.get_by_text(text, exact=True).first).to_be_visible()


def ids_tagged(stack, key, value):
    return {run["runId"] for run in stack.runs_tagged(key, value)}


@contextmanager
def switched_on(page, name):
    """Its page, with the schedule or sensor switched on for as long as the block lasts."""
    click_through(page, "Automation", name)
    row = page.get_by_role("row", name="Running")
    switch = row.get_by_role("checkbox")
    # The checkbox itself is invisible, its label is drawn as a switch.
    handle = row.locator("label")
    handle.click()
    expect(switch).to_be_checked()
    try:
        yield
    finally:
        handle.click()
        expect(switch).not_to_be_checked()
        # What the server says, not what the switch says.
        page.reload()
        expect(switch).not_to_be_checked()


def test_the_first_page_does_not_ask_to_join_a_community(page):
    answers = []

    def note(route):
        # Chromium may have thrown away the body by the time that expect_response returns.
        response = route.fetch()
        answers.append(response.json())
        route.fulfill(response=response)

    page.route("**/graphql?op=ShouldShowNux*", note)
    page.goto("/")
    # The dialog would come a second later: only if the answer was yes.
    wait_until(lambda: page.wait_for_timeout(100) or answers, "the question")
    assert answers == [{"data": {"shouldShowNux": False}}]
    see(page, "Overview")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_the_job_s_page_draws_its_six_ops(page):
    click_through(page, "Jobs", "process_numbers")
    for op in OPS:
        see(page, op)


def test_the_group_s_lineage_draws_its_six_assets_of_kind_python(page):
    page.goto("/locations/code_location/asset-groups/numbers/lineage")
    for asset in ASSETS:
        see(page, asset)
    expect(page.get_by_text("Python", exact=True)).to_have_count(len(ASSETS))


def test_a_run_launched_from_the_launchpad_is_followed_live_to_its_end(page):
    received = []
    page.on(
        "websocket",
        lambda socket: socket.on("framereceived", lambda frame: received.append(frame)),
    )
    click_through(page, "Jobs", "process_numbers")
    page.get_by_role("tab", name="Launchpad").click()
    page.evaluate("window.loadedOnce = true")
    page.get_by_role("button", name="Launch Run").click()
    page.wait_for_url(re.compile("/runs/[0-9a-f-]{36}"))
    see(page, "Success")
    see(page, "RUN_SUCCESS")
    assert any("RunSuccessEvent" in frame for frame in received)
    assert page.evaluate("window.loadedOnce")


def test_a_finished_run_shows_its_events_and_what_was_printed(page, stack):
    run = stack.run("talk")
    page.goto(f"/runs/{run}")
    see(page, "Success")
    see(page, "STEP_SUCCESS")
    for stream in ("stdout", "stderr"):
        page.get_by_role("button", name=stream).click()
        page.get_by_placeholder("Select a step").click()
        page.get_by_role("menuitem", name="speak").click()
        expect(page.get_by_text(f"said on {stream}")).to_be_visible()


def test_a_failed_run_shows_its_error(page, stack):
    run = stack.launch("fail")
    assert stack.finished(run) == "FAILURE"
    page.goto(f"/runs/{run}")
    see(page, "Failure")
    page.get_by_role("button", name="View full message").first.click()
    expect(page.get_by_role("dialog")).to_contain_text("RuntimeError: the pump is dry")


@pytest.mark.whole
def test_a_schedule_switched_on_makes_a_run_within_70_seconds(page, stack):
    name = "process_numbers_every_minute"
    before = ids_tagged(stack, "dagster/schedule_name", name)
    with switched_on(page, name):
        (run,) = wait_until(
            lambda: ids_tagged(stack, "dagster/schedule_name", name) - before, "a run", 70
        )
        expect(page.get_by_role("link", name=run[:8])).to_be_visible()
    assert stack.finished(run) == "SUCCESS"


def test_the_sensors_are_listed(page):
    click_through(page, "Automation")
    for sensor in SENSORS:
        expect(page.get_by_role("link", name=f"sensors {sensor}")).to_be_visible()


@pytest.mark.whole
def test_a_sensor_evaluates_until_it_is_switched_off(page):
    with switched_on(page, "inbox_files"):
        # The daemon looks at sensors that were just switched on within half a minute.
        expect(page.get_by_role("row", name="Latest tick")).to_contain_text("0 runs requested")


def test_every_daemon_is_running(page):
    click_through(page, "Deployment")
    page.get_by_role("tab", name="Daemons").click()
    rows = page.get_by_role("row").filter(has=page.get_by_role("cell"))
    expect(rows.first).to_be_visible()
    for row in rows.all():
        expect(row.get_by_role("cell").nth(1)).to_have_text("Running")


@pytest.mark.whole
def test_a_backfill_of_two_days_completes(page, stack):
    days = [str((datetime.now(UTC) - timedelta(days=ago)).date()) for ago in (2, 1)]
    page.goto("/locations/code_location/asset-groups/days/lineage")
    page.get_by_role("button", name="Materialize all").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("textbox").fill(f"[{days[0]}...{days[1]}]")
    dialog.get_by_role("textbox").press("Enter")
    expect(dialog).to_contain_text("2 partitions")
    dialog.get_by_role("button", name="Launch backfill").click()
    page.get_by_text("View", exact=True).click()
    expect(page.get_by_text("100% completed")).to_have_count(2, timeout=180_000)
    see(page, "Succeeded")
    backfill = page.url.split("/")[-1]
    assert len(ids_tagged(stack, "dagster/backfill", backfill)) == len(days)
