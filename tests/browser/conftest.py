from contextlib import suppress

import pytest
from _pytest.runner import runtestprotocol
from playwright.sync_api import Error, expect

from support.chromium import chromium, sign_in
from support.cli import OPERATOR

# Run containers start on the same machine while pages load.
SECONDS = 60
# Requests of the current test that failed.
FAILED = []
# Chromium gives up its requests whenever Docker makes or removes a network, which other processes'
# stacks do at any time. A test that fails so is run again; any other failure is one.
NETWORK_CHANGED = "ERR_NETWORK_CHANGED"
ATTEMPTS = 4


# Not for the session: while Playwright is there, no other test can use asyncio.
@pytest.fixture(scope="module")
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
        page.on("requestfailed", lambda request: FAILED.append(f"{request.url} {request.failure}"))
        if user:
            sign_in(page, user, stack.password_of(user))
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def page(visit, tmp_path):
    """A page of somebody who may do everything."""
    return visit(OPERATOR)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for _ in range(ATTEMPTS):
        FAILED.clear()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
        errors = [report.longreprtext for report in reports if report.failed]
        if not (errors and NETWORK_CHANGED in "".join([*errors, *FAILED])):
            break
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


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
