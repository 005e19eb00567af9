from contextlib import suppress

import pytest
from playwright.sync_api import Error, expect

from support.chromium import chromium, sign_in
from support.cli import OPERATOR

# Run containers start on the same machine while pages load.
SECONDS = 60
# Requests of the current page. Chromium drops some whenever Docker makes or removes a network.
FAILED = []


@pytest.fixture(scope="session")
def browser():
    expect.set_options(timeout=SECONDS * 1000)
    with chromium() as started:
        yield started


@pytest.fixture
def visit(browser, stack):
    """Opens pages of browsers that were never here before, signed in as somebody or not.

    goto("/runs") is relative to the stack.
    """
    contexts = []

    def open_page(user=None):
        context = browser.new_context(base_url=stack.url, viewport={"width": 1400, "height": 900})
        context.set_default_timeout(SECONDS * 1000)
        contexts.append(context)
        page = context.new_page()
        if user:
            sign_in(page, user, stack.password_of(user))
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def page(visit, tmp_path):
    """A page of somebody who may do everything."""
    page = visit(OPERATOR)
    page.on("requestfailed", lambda request: FAILED.append(f"{request.url} {request.failure}"))
    FAILED.clear()
    return page


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    page = item.funcargs.get("page")
    if report.when == "call" and report.failed and page:
        screenshot = item.funcargs["tmp_path"] / "page.png"
        with suppress(Error):  # a page that crashed shows nothing
            page.screenshot(path=screenshot)
            text = page.locator("body").inner_text()
            report.sections.append(("page", "\n".join([page.url, str(screenshot), *FAILED, text])))
