from contextlib import suppress

import pytest
from chromium import chromium
from playwright.sync_api import Error, expect

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
def page(browser, stack, tmp_path):
    """A page of a browser that was never here before; goto("/runs") is relative to the stack."""
    context = browser.new_context(base_url=stack.url, viewport={"width": 1400, "height": 900})
    context.set_default_timeout(SECONDS * 1000)
    page = context.new_page()
    page.on("requestfailed", lambda request: FAILED.append(f"{request.url} {request.failure}"))
    FAILED.clear()
    yield page
    context.close()


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
